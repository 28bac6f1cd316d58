"""Optimizing stacked per-task parameters: an absent task's slice stays exactly as it is.

Under a plain optimizer a zero gradient still moves a slice (weight decay, momentum), and one step
count for all slices makes a task's first late step too large.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from plait.networks.base import bank_slices, paces_of, slice_trainers, task_slices

Group = dict[str, Any]


class RowwiseAdamW(torch.optim.Optimizer):
    """AdamW whose stacked parameters [T, ...] (``TaskBank``) step by slice.

    ``step(present=names)`` moves the slices of the named tasks only, each with a step count of its
    own: equal to AdamW on separate tensors that have no gradient while their task is absent. While
    no task has been absent a stacked parameter is one tensor to the kernel. Loshchilov and Hutter
    (2019), Decoupled weight decay regularization.

    A parameter with a sparse gradient (``nn.Embedding(..., sparse=True)``) steps by row in the same
    way: a row that the gradient does not hold stays as it is, without decay or momentum, and each
    row corrects its moments by its own count of steps. The time of a step does not grow with the
    table.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[Group],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        if not (lr >= 0 and eps >= 0 and weight_decay >= 0):
            raise ValueError(
                f"lr, eps and weight_decay must not be negative: {lr, eps, weight_decay}"
            )
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must lie in [0, 1), got {betas}")
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Tensor] | None = None,
        *,
        present: Collection[str] | None = None,
    ) -> Tensor | None:
        """One step on the gradients that are there; ``present`` None means every task."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        there = _Rows(present)
        for group in self.param_groups:
            whole: list[nn.Parameter] = []
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), device=parameter.device)
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                gradient = parameter.grad
                rows = there.of(parameter)
                if gradient.is_sparse:
                    rows, gradient = touched(gradient)
                elif rows is not None:
                    gradient = gradient.index_select(0, rows)
                if rows is None and not state["step"].ndim:
                    whole.append(parameter)
                elif rows is None or len(rows):
                    if not state["step"].ndim:
                        wide = torch.float32 if parameter.device.type == "mps" else torch.float64
                        state["step"] = state["step"].to(wide).repeat(len(parameter))
                    _step_rows(parameter, gradient, state, rows, group)
            self._step_whole(whole, group)
        return loss

    def _step_whole(self, parameters: list[nn.Parameter], group: Group) -> None:
        if not parameters:
            return
        states = [self.state[parameter] for parameter in parameters]
        fused = parameters[0].device.type in ("cpu", "cuda", "mps")
        adamw(
            parameters,  # type: ignore[arg-type]
            [parameter.grad for parameter in parameters],  # type: ignore[misc]
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=fused,
            foreach=False if fused else None,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


class _Rows:
    """The slices to move, worked out once for each bank in a step."""

    def __init__(self, present: Collection[str] | None) -> None:
        self.present = None if present is None else frozenset(present)
        self.known: dict[tuple[tuple[frozenset[str], ...], torch.device], Tensor | None] = {}

    def of(self, parameter: nn.Parameter) -> Tensor | None:
        trainers = slice_trainers(parameter)
        if self.present is None or trainers is None:
            return None
        place = (trainers, parameter.device)
        if place not in self.known:
            rows = present_rows(parameter, self.present)
            self.known[place] = None if rows is None or len(rows) == len(trainers) else rows
        return self.known[place]


def present_rows(parameter: nn.Parameter, present: Collection[str]) -> Tensor | None:
    """The slices that the named tasks train; None for a parameter that all may train."""
    trainers = slice_trainers(parameter)
    if trainers is None:
        return None
    rows = [row for row, tasks in enumerate(trainers) if not tasks.isdisjoint(present)]
    return torch.tensor(rows, dtype=torch.long, device=parameter.device)


def touched(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The rows [n] that a sparse gradient holds, each once, and their gradients [n, ...]."""
    if gradient.sparse_dim() != 1:
        raise ValueError(
            f"a sparse gradient of {gradient.sparse_dim()} sparse dimensions; RowwiseAdamW takes "
            "those of whole rows, as of nn.Embedding(..., sparse=True)"
        )
    once = gradient.coalesce()
    return once.indices()[0], once.values()


def _step_rows(
    parameter: nn.Parameter,
    gradient: Tensor,
    state: dict[str, Tensor],
    rows: Tensor | None,
    group: Group,
) -> None:
    """AdamW on some slices of one parameter (None: all), each with its own count of steps.

    ``gradient`` is that of these slices.
    """
    beta1, beta2 = group["betas"]
    whole = parameter, state["exp_avg"], state["exp_avg_sq"], state["step"]
    value, mean, square, steps = (
        whole if rows is None else (tensor.index_select(0, rows) for tensor in whole)
    )
    steps += 1
    shape = (-1, *[1] * (parameter.ndim - 1))
    rate = (group["lr"] / (1 - beta1**steps)).to(value.dtype).view(shape)
    scale = (1 - beta2**steps).sqrt().to(value.dtype).view(shape)
    value.mul_(1 - group["lr"] * group["weight_decay"])
    mean.lerp_(gradient, 1 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    value.sub_(rate * mean / (square.sqrt() / scale).add_(group["eps"]))
    if rows is not None:
        for tensor, part in zip(whole, (value, mean, square, steps), strict=True):
            tensor.index_copy_(0, rows, part)


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[Group]:
    """Parameter groups: no decay for biases, norms and whatever has one dimension in each slice."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in parameters:
        own = parameter.ndim - (bank_slices(parameter) is not None)
        (decayed if own > 1 else plain).append(parameter)
    return [
        {"params": some, "weight_decay": decay}
        for some, decay in ((decayed, weight_decay), (plain, 0.0))
        if some
    ]


def paced(groups: Iterable[Group], network: nn.Module, rate: float) -> list[Group]:
    """The groups with the parameters that learn at a pace of their own (``TaskBank``) apart."""
    paces = paces_of(network)
    found: list[Group] = []
    for group in groups:
        by_pace: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_pace.setdefault(paces.get(parameter, 1.0), []).append(parameter)
        found += [{**group, "params": some, "lr": rate * p} for p, some in by_pace.items()]
    return found


def moves_absent(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a plain optimizer would move the slices of absent tasks.

    Without momentum and weight decay a zero gradient moves nothing: such an SGD is safe.
    """
    if isinstance(optimizer, RowwiseAdamW):
        return False
    still = isinstance(optimizer, torch.optim.SGD) and not any(
        group["momentum"] or group["weight_decay"] for group in optimizer.param_groups
    )
    banks = (slice_trainers(p) for group in optimizer.param_groups for p in group["params"])
    return not still and any(trainers is not None and len(trainers) > 1 for trainers in banks)


def numbers_of(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The numbers of all gradients, to be changed in place; of sparse ones those of their rows.

    A row of a table is in a sparse gradient as often as it was looked up; here it is once.
    """
    found = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is not None and gradient.is_sparse:
            parameter.grad = gradient.coalesce()
            gradient = parameter.grad.values()
        if gradient is not None:
            found.append(gradient)
    return found


def clip_joint(parameters: Sequence[nn.Parameter], limit: float | None) -> float:
    """Scale all gradients to the norm ``limit`` at most; returns the norm before."""
    gradients = numbers_of(parameters)
    if not gradients:
        return 0.0
    norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
    if limit is not None and limit < norm < float("inf"):
        torch._foreach_mul_(gradients, limit / (norm + 1e-6))
    return norm


def clip_slices(
    parameters: Sequence[nn.Parameter], limit: float | None, tasks: Sequence[str]
) -> Tensor:
    """The same for every task's own slices; returns the norms [T] before.

    Raises ``ValueError`` for a parameter that is not sliced by task.
    """
    position = {name: i for i, name in enumerate(tasks)}
    found: list[tuple[Tensor, Tensor]] = []
    squares: Tensor | None = None
    for parameter in parameters:
        names = task_slices(parameter)
        if names is None:
            raise ValueError(
                "per_task=True needs a network whose every parameter is sliced by task (side by "
                f"side); one of shape {tuple(parameter.shape)} is not"
            )
        if parameter.grad is None:
            continue
        if squares is None:
            squares = parameter.grad.new_zeros(len(tasks))
        where = torch.tensor([position[name] for name in names], device=parameter.device)
        squares.index_add_(0, where, parameter.grad.flatten(1).square().sum(1))
        found.append((parameter.grad, where))
    if squares is None:
        return torch.zeros(len(tasks))
    norms = squares.sqrt()
    if limit is not None:
        factor = torch.where(norms > limit, limit / (norms + 1e-6), 1.0)
        for gradient, where in found:
            gradient.mul_(factor[where].view(-1, *[1] * (gradient.ndim - 1)))
    return norms
