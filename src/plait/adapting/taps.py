r"""Weights of a task's own in the layers that a learnt score opens; the others stay shared.

    W_t = W₀ + 1[s_t ≥ 0.1] · Δ_t,   loss + λ / L · Σ_l |s_{t,l}|,   t = the row's task

at each of L linear layers and convolutions l: the change Δ [T, ...] starts from 0 and the score s
[T] from 0.15, so the adapted network begins as the frozen one. Backwards the step is the identity:
∂s = ⟨∂W, Δ⟩, ∂Δ = 1[s ≥ 0.1] · ∂W. A layer that closed keeps its Δ and may open again. The biases
of these layers and the norms have slices for each task too, which are always open. λ, ``sparsity``,
acts after the first ``warmup`` steps. A task stores the layers that are open: see ``stored``.

    >>> import torch
    >>> from plait import Task, TaskSet
    >>> from plait.adapting import Routing
    >>> from plait.sites import module_sites
    >>> net, routing = torch.nn.Sequential(torch.nn.Linear(4, 6)), Routing()
    >>> banks = Taps().attach(module_sites(net, "0"), TaskSet([Task(name="a")]), routing)
    >>> banks["0"].stored("a"), banks["0"].score.data.fill_(0.05).item() < 0.1
    (31, True)
    >>> banks["0"].stored("a")
    6
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.adapting.whole import WholeBank, is_layer
from plait.method import Card, Law, Paper
from plait.sites import TYPED, ModuleSite, role_sites
from plait.task import TaskSet

OPEN = 0.1  # from this score on a layer is the task's own
START = 0.15  # of the scores


@dataclass(frozen=True, kw_only=True)
class Taps(Adapter):
    """TAPS; ``norms``: also norms, where no ``sites`` are named."""

    sparsity: float = 1.0
    warmup: int = 0
    norms: bool = True
    sites: Sequence[str] = ()
    types = (nn.Module,)

    card = Card(
        family="adapting",
        name="taps",
        summary="Weights of a task's own in the layers that a learnt score opens.",
        paper=Paper(
            title="Task Adaptive Parameter Sharing for Multi-Task Learning",
            authors="Matthew Wallingford and Hao Li and Alessandro Achille and Avinash Ravichandran"
            " and Charless Fowlkes and Rahul Bhotika and Stefano Soatto",
            year=2022,
            venue="CVPR",
            url="https://arxiv.org/abs/2203.16708",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=(
            "λ is divided by the number of layers; the authors' code divides by 52, ResNet-50's",
            "norms have a task's weights but the frozen statistics, which the authors' code moves",
            "embeddings and other tensors outside of these layers stay frozen",
        ),
        exceptions={"reach_is_exact": "the change of a closed layer gets no gradient"},
    )

    def __post_init__(self) -> None:
        for name in ("sparsity", "warmup"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def choose(self, network: nn.Module) -> list[ModuleSite]:
        """The layers with weights, or those named."""
        if self.sites:
            return super().choose(network)
        roles = ("linear", "convolution", *(["norm"] if self.norms else []))
        return [site for site in role_sites(network, *roles) if is_layer(site.module)]

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Give the layers at the sites a change for each task, and scores where they are no norms.

        Raises ``ValueError`` for a site that is no such layer, or where all are norms.
        """
        for site in sites:
            if not is_layer(site.module):
                raise ValueError(f"taps adapts linear layers, convolutions and norms, not {site!r}")
        gated = [site.path for site in sites if not TYPED["norm"](site.module)]
        if not gated:
            raise ValueError("taps: there is no linear layer and no convolution to adapt")
        share = self.sparsity / len(gated)

        def bank(site: ModuleSite) -> SiteBank:
            if site.path in gated:
                return _GatedBank(tasks.names, site.module, share, self.warmup)
            return WholeBank(tasks.names, site.module)

        return put(sites, routing, bank)


class _GatedBank(WholeBank):
    """Δ [T, ...] and s [T] of one layer."""

    def __init__(self, names: Sequence[str], base: nn.Module, share: float, warmup: int) -> None:
        super().__init__(names, base)
        self.share, self.warmup = share, warmup
        self.free = warmup > 0
        self.add("score", start=_score)

    def pieces(self) -> Mapping[str, Sequence[Tensor]]:
        """Those of the parameters, and each task's gate: the step forwards, s backwards."""
        score = self.stack("score")
        gates = _open(score) + (score - score.detach())
        return {**super().pieces(), "score": gates.unbind(0)}

    def weights(
        self, base: nn.Module, pieces: Mapping[str, Sequence[Tensor]], place: int
    ) -> Mapping[str, Tensor]:
        """With the change of the weight where the layer is open."""
        found = dict(super().weights(base, pieces, place))
        change = pieces["score"][place] * pieces["weight"][place]
        return {**found, "weight": base.get_parameter("weight") + change}

    def advance(self, step: int) -> None:
        """The penalty acts after the warm-up."""
        self.free = step < self.warmup

    def penalty(self, present: Tensor) -> Tensor | None:
        """λ / L · |s| of the present tasks."""
        if self.free:
            return None
        return self.share * self.stack("score").masked_fill(~present, 0.0).abs().sum()

    @torch.no_grad()
    def stored(self, task: str) -> int:
        """Without the change of a layer that is closed."""
        weight, score = self.stack("weight"), self.stack("score")
        closed = not bool(_open(score)[self.names.index(task)])
        return super().stored(task) - closed * (weight[0].numel() + 1)


def _open(score: Tensor) -> Tensor:
    return (score >= OPEN).to(score.dtype)


def _score(slice_: Tensor, generator: torch.Generator) -> None:  # noqa: ARG001
    slice_.fill_(START)
