"""Where each task's backward pass starts, and what the losses alone tell a balancer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, Signals
from plait.training.measuring import Losses


class NotFiniteError(ArithmeticError):
    """Some tasks' losses or gradients are not finite."""

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(
            f"loss or gradient not finite: {', '.join(tasks)}; leave the records of these tasks "
            "out of the batch (`batch.only`) and repeat the step"
        )
        self.tasks = tuple(tasks)


@dataclass(frozen=True)
class Root:
    """Where one task's backward pass starts: an output and its cotangent (None: a scalar's 1).

    The output is a tensor, or the edge of the graph where it was made.
    """

    output: Any
    cotangent: Tensor | None = None


def roots_of(losses: Losses) -> list[Root]:
    """The entries of stacked losses, times the user's preferences."""
    start = torch.eye(len(losses.tasks), dtype=losses.value.dtype, device=losses.value.device)
    if losses.preferences is not None:
        start = start * losses.preferences
    return [Root(losses.value, row) for row in start]


def one_graph(roots: Sequence[Root]) -> bool:
    """Whether the roots are entries of one tensor, so that several can be run in one pass."""
    return all(r.cotangent is not None and r.output is roots[0].output for r in roots)


def weighed(roots: Sequence[Root], factors: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and cotangents of one backward pass of Σ_i c_i L_i, c [t]."""
    if one_graph(roots):
        first, *others = [root.cotangent for root in roots if root.cotangent is not None]
        times = factors.tolist()
        total = first * times[0]
        for other, factor in zip(others, times[1:], strict=True):
            total.add_(other, alpha=factor)
        return [roots[0].output], [total]
    if all(root.cotangent is None for root in roots):  # one tensor is started faster than many
        with torch.enable_grad():
            stacked = torch.stack([root.output for root in roots])
        return [stacked], [factors.to(stacked)]
    starts = [torch.ones_like(r.output) if r.cotangent is None else r.cotangent for r in roots]
    return [root.output for root in roots], [
        start * factor.to(start) for start, factor in zip(starts, factors, strict=True)
    ]


def trained(shared: Iterable[nn.Parameter], balancer: Balancer) -> list[nn.Parameter]:
    """The shared parameters that are not frozen.

    Raises ``TypeError`` for what are no parameters, and for a balancer that is none.
    """
    if not isinstance(balancer, Balancer):
        raise TypeError(
            f"the balancer must be an object that keeps its state from step to step, got "
            f'{balancer!r}; make one before the loop: plait.resolve("balancing", "pcgrad")'
        )
    every: list[Any] = [shared] if isinstance(shared, nn.Module) else list(shared)
    for one in every:
        if not isinstance(one, Tensor):
            raise TypeError(
                "`shared` must be parameters, as model.parameters() gives them; found a "
                f"{type(one).__name__}"
            )
    return [parameter for parameter in every if parameter.requires_grad]


def names_of(losses: Losses | Mapping[str, Tensor]) -> tuple[str, ...]:
    """The tasks, broken ones included."""
    return losses.tasks if isinstance(losses, Losses) else tuple(losses)


def read(losses: Losses | Mapping[str, Tensor]) -> tuple[Sequence[Root], Losses]:
    """The roots of losses, and the losses stacked.

    Raises ``ValueError`` where there are none, and for one that is no scalar or has no graph.
    """
    if isinstance(losses, Losses):
        if losses.value.shape != (len(losses.tasks),):
            raise ValueError(
                f"the losses of {len(losses.tasks)} tasks must be one tensor "
                f"[{len(losses.tasks)}], got {tuple(losses.value.shape)}"
            )
        if not losses.value.requires_grad:
            raise ValueError("the losses have no graph: they depend on no parameter")
        return roots_of(losses), losses
    if not losses:
        raise ValueError("no losses; leave the step out when no task has a label in the batch")
    for name, value in losses.items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise TypeError(f"the loss of task {name!r} must be a tensor with a graph, got {kind}")
        if value.numel() != 1:
            raise ValueError(
                f"the loss of task {name!r} must be a scalar, got {tuple(value.shape)}; take its "
                "mean over the rows"
            )
        if not value.requires_grad:
            raise ValueError(f"the loss of task {name!r} has no graph: it depends on no parameter")
    values = [value.reshape(()) if value.ndim else value for value in losses.values()]
    stacked = torch.stack(values)
    told = Losses(tuple(losses), stacked, torch.ones_like(stacked.detach()))
    return [Root(value) for value in values], told


def only(roots: Sequence[Root], losses: Losses, kept: list[int]) -> tuple[Sequence[Root], Losses]:
    """Some of the tasks. Scalars are stacked anew: a zero cotangent times NaN would be NaN."""
    if len(kept) == len(losses.tasks):
        return roots, losses
    preferences, gaussian = losses.preferences, losses.gaussian
    roots = [roots[i] for i in kept]
    alone = bool(roots) and all(root.cotangent is None for root in roots)
    value = torch.stack([root.output for root in roots]) if alone else losses.value[kept]
    return roots, Losses(
        tuple(losses.tasks[i] for i in kept),
        value,
        losses.units[kept],
        None if preferences is None else preferences[kept],
        None if gaussian is None else gaussian[kept],
    )


def signals_of(
    losses: Losses,
    step: int,
    seed: int,
    validation: Tensor | None = None,
    dropped: tuple[str, ...] = (),
) -> Signals:
    """The signals of the losses' rung."""
    value = losses.value.detach()
    preferences, gaussian = losses.preferences, losses.gaussian
    return Signals(
        tasks=losses.tasks,
        losses=value,
        counts=losses.units,
        preferences=torch.ones_like(value) if preferences is None else preferences,
        gaussian=torch.zeros_like(value, dtype=torch.bool) if gaussian is None else gaussian,
        validation=validation,
        step=step,
        seed=seed,
        dropped=dropped,
    )


def weights_of(balancer: Balancer, signals: Signals) -> Tensor:
    """What multiplies each loss [t], the user's preferences included."""
    weights: Tensor = balancer(signals)
    return weights * signals.preferences.to(weights)
