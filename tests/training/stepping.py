"""Steps of procedures by hand: what they fill, and losses as functions of the parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.func import functional_call
from training_toys import Deck

from plait.balancing.base import Balancer, Signals
from plait.balancing.equal import Equal
from plait.batch import Batch
from plait.networks import Network
from plait.training.measuring import Layout, total
from plait.training.procedures.base import Ground, Problem, Procedure


def ground_of(
    network: Network, procedure: Procedure, validation: Deck | None = None, pieces: int = 1
) -> Ground:
    memory = procedure.memory(network)
    return Ground(network, 1, pieces, validation=validation, memory=memory)


def stepped(
    ground: Ground,
    procedure: Procedure,
    batch: Batch,
    balancer: Balancer | None = None,
    step: int = 0,
) -> tuple[Signals, dict[str, Tensor]]:
    """One step: what it told and filled; the memory moves, parameters do not."""
    ground.network.zero_grad()
    balancer = balancer or Equal()
    balancer.bind(ground.network.tasks.names)
    problem = Problem(ground, batch, step)
    signals = procedure.gradients(problem, balancer)
    procedure.advance(problem, signals)
    named = ground.network.named_parameters()
    return signals, {n: p.grad.clone() for n, p in named if p.grad is not None}


def values_of(network: Network) -> dict[str, Tensor]:
    return {n: p.detach().clone().requires_grad_() for n, p in network.named_parameters()}


def losses_at(network: Network, values: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """The losses by task as functions of parameters that are handed in."""
    outputs = functional_call(network, dict(values), (batch.parts, batch.labels))
    found = total(batch, outputs, Layout(network.tasks).units(batch))
    return dict(zip(found.tasks, found.value, strict=True))


def stacked(losses: Mapping[str, Tensor], names: tuple[str, ...]) -> Tensor:
    return torch.stack([losses[name] for name in names])


def ahead(values: Mapping[str, Tensor], loss: Tensor, rate: float) -> dict[str, Tensor]:
    """The parameters after a plain step on a loss, as functions of what the loss depends on."""
    slopes = torch.autograd.grad(loss, list(values.values()), create_graph=True, allow_unused=True)
    return {
        name: value if slope is None else value - rate * slope
        for (name, value), slope in zip(values.items(), slopes, strict=True)
    }
