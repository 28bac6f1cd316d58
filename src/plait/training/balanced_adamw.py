"""AdamW for one task a step, which counts every task by its due and not by its chance."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from plait.training.optim import Group, RowwiseAdamW, present_rows, touched


class TaskBalancedAdamW(RowwiseAdamW):
    """AdamW whose moments take a task's gradient at 1/s, s the probability of drawing it.

    ``step(present=(task,))`` makes m ← β₁m + (1 − β₁)g/s and n ← β₂n + (1 − β₂)g²/s, so that the
    means of both over steps do not depend on how often a task is drawn; all else is as in
    :class:`RowwiseAdamW`. ``shares`` hold s by task name. ``ValueError`` for a step of several
    tasks. Li et al. (2023), Uni-Perceiver v2, section 4.4.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[Group],
        shares: Mapping[str, float],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)
        self.shares = dict(shares)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Tensor] | None = None,
        *,
        present: Collection[str] | None = None,
    ) -> Tensor | None:
        """One step on the one task that is present (None: all that there are)."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        names = tuple(self.shares if present is None else present)
        if len(names) != 1:
            raise ValueError(f"a step of one task, and {len(names)} are present: {names[:3]}")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group, names, self.shares[names[0]])
        return loss

    def _move(
        self, parameter: nn.Parameter, group: Group, names: tuple[str, ...], share: float
    ) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        rows = present_rows(parameter, names)
        if gradient.is_sparse:
            rows, gradient = touched(gradient)
        elif rows is not None:
            gradient = gradient.index_select(0, rows)
        if not state:
            stacked = rows is not None
            wide = torch.float32 if parameter.device.type == "mps" else torch.float64
            state["step"] = torch.zeros(
                len(parameter) if stacked else (), dtype=wide, device=parameter.device
            )
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        if rows is not None and not len(rows):
            return
        beta1, beta2 = group["betas"]
        whole = parameter, state["exp_avg"], state["exp_avg_sq"], state["step"]
        value, mean, square, steps = (
            whole if rows is None else (tensor.index_select(0, rows) for tensor in whole)
        )
        steps += 1
        shape = (-1, *[1] * (parameter.ndim - 1)) if rows is not None else ()
        first, second = ((1 - beta**steps).to(value.dtype).view(shape) for beta in (beta1, beta2))
        value.mul_(1 - group["lr"] * group["weight_decay"])
        mean.mul_(beta1).add_(gradient, alpha=(1 - beta1) / share)
        square.mul_(beta2).addcmul_(gradient, gradient, value=(1 - beta2) / share)
        value.sub_(group["lr"] * (mean / first) / ((square / second).sqrt() + group["eps"]))
        if rows is not None:
            for tensor, part in zip(whole, (value, mean, square, steps), strict=True):
                tensor.index_copy_(0, rows, part)
