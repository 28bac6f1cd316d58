"""Only the strongest connections of every neuron are trained, so that tasks conflict less.

Once, from the weights that training begins with: of each shared weight matrix W [n_out, n_in] (a
convolution: [n_out, n_in·k·k]) every row keeps its K = ⌈keep·n_in⌉ entries of largest |w|, which
make the mask M. Then θ ← θ − lr·(M∘d) with d the balanced update: balancers see the masked
gradients M∘∇L_i, and what is masked keeps its value bit for bit, from weight decay and momentum
too. Biases, norms, embeddings and heads train in full.

    >>> SparseTraining(keep=0.3).settings()
    {'keep': 0.3}
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, Rung, Signals
from plait.method import Card, Law, Need, Paper, resolve
from plait.networks import Network
from plait.training.engine import accumulate, combine
from plait.training.procedures.base import Problem, Procedure


@final
@dataclass(frozen=True, kw_only=True)
class SparseTraining(Procedure):
    """Steps on a fixed part of the shared weights, around any balancer.

    ``keep`` is the share of each neuron's connections that train: about 0.3 for a pretrained
    encoder, 0.6 from a random start. Balancers that compare parts of a batch are refused.
    """

    keep: float = 0.6

    card = Card(
        family="procedure",
        name="sparse_training",
        summary="Trains the strongest connections of every shared neuron only.",
        paper=Paper(
            title="Proactive Gradient Conflict Mitigation in Multi-Task Learning: A Sparse "
            "Training Perspective",
            authors="Zhang, Zhi and Shen, Jiayi and Cao, Congfeng and Dai, Gaole and Zhou, Shiji "
            "and Zhang, Qizhe and Zhang, Shanghang and Shutova, Ekaterina",
            year=2024,
            venue="arXiv",
            url="https://arxiv.org/abs/2411.18615",
        ),
        needs=frozenset({Need.BACKWARD}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "Biases, norms and embeddings train in full: they have no neuron's connections.",
        ),
    )

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must lie in (0, 1], got {self.keep}")

    def memory(self, network: Network) -> Masks:
        """The masks, made of the weights as they are."""
        return Masks(network, self.keep)

    def gradients(self, problem: Problem, balancer: Balancer) -> Signals:
        """Fill the masked gradients; a balancer that compares them sees them masked."""
        ground, masks = problem.ground, problem.ground.memory
        assert isinstance(masks, Masks)
        if balancer.samples > 1:
            raise ValueError(
                f"{balancer.card.name} compares parts of a batch, which sparse_training does not "
                "mask; use another balancer with it"
            )
        masks.before = [parameter.detach().clone() for parameter in ground.shared]
        there = [parameter.grad for parameter in ground.shared]
        for parameter in ground.shared:
            parameter.grad = None
        if balancer.asks(problem.tasks, problem.step) is Rung.LOSSES:
            usual: Procedure = resolve("procedure", "plain")
            signals = usual.gradients(problem, balancer)
        else:
            found = problem.task_gradients()
            blocks = [
                block if block is None or mask is None else block * mask
                for block, mask in zip(found.blocks, masks, strict=True)
            ]
            signals, updates = combine(balancer, problem.signals(found.losses), blocks)
            accumulate(ground.shared, updates)
            problem.fill(balancer, signals, found)
        for parameter, mask in zip(ground.shared, masks, strict=True):
            if mask is not None and parameter.grad is not None:
                parameter.grad *= mask
        accumulate(ground.shared, there)
        return signals

    @torch.no_grad()
    def advance(self, problem: Problem, signals: Signals) -> None:  # noqa: ARG002
        """Put back what the optimizer has moved behind the mask."""
        masks = problem.ground.memory
        assert isinstance(masks, Masks)
        triples = zip(problem.ground.shared, masks, masks.before, strict=True)
        for parameter, mask, old in triples:
            if mask is not None:
                parameter.copy_(torch.where(mask, parameter, old))
        masks.before = []


class Masks(nn.Module):
    """Which entries of the shared parameters train, in order; None for one that trains in full."""

    before: list[Tensor]  # the values when the step began

    def __init__(self, network: Network, keep: float) -> None:
        super().__init__()
        self.before = []
        shared = network.shared_parameters()
        self.count = len(shared)
        kinds = {id(p): m for m in network.modules() for p in m.parameters(recurse=False)}
        for place, parameter in enumerate(shared):
            rows = None if keep == 1 else connections(kinds[id(parameter)], parameter.detach())
            mask = None
            if rows is not None:
                mask = strongest(rows, keep)
                if isinstance(kinds[id(parameter)], _TURNED):
                    mask = mask.view(parameter.shape[1], len(parameter), *parameter.shape[2:])
                    mask = mask.transpose(0, 1).contiguous()
                mask = mask.view(parameter.shape)
            self.register_buffer(f"mask{place}", mask)

    def __iter__(self) -> Iterator[Tensor | None]:
        return (getattr(self, f"mask{place}") for place in range(self.count))


_TURNED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def connections(module: nn.Module, value: Tensor) -> Tensor | None:
    """A parameter as [neurons, inputs]; None for one that holds no neurons' connections."""
    if value.ndim < 2 or isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return None
    if isinstance(module, _TURNED):
        return value.transpose(0, 1).flatten(1)
    if isinstance(module, _CONVOLUTIONS):
        return value.flatten(1)
    return value.reshape(-1, value.shape[-1])  # stacked layers have their inputs last, too


def strongest(rows: Tensor, keep: float) -> Tensor:
    """True at the ⌈keep·n⌉ entries of largest magnitude of every row [m, n]."""
    count = math.ceil(round(keep * rows.shape[1], 9))
    chosen = rows.abs().topk(count, dim=1).indices
    return torch.zeros_like(rows, dtype=torch.bool).scatter(1, chosen, value=True)
