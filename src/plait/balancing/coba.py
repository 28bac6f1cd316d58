"""Weights from the slopes of the tasks' losses on held-out rows, so that all converge at one pace.

L̄_i is the held-out loss over its first value and s_i [t] the slope of a line through its last N
values; S is that of max_i L̄_i, the task that is worst off. With the m ≤ N slopes before and at this
step, s_i(u) and S(u):

- R = softmax_i(t s_i/Σ_j|s_j|): who falls slowest gets more;
- A = softmax_i(−m s_i/Σ_u|s_i(u)|): who rises after having fallen gets less;
- D = min(m softmax_u(−τ m S(u)/Σ_u|S(u)|) at the newest u, 1): near one while the worst task falls.

α = D∘R + (1 − D)∘A, [t], over its sum. The authors' code goes on: β = softmax(tα), and where one
is below f = 1/(10t), β(1 − tf) + f (``sharpen``).

    >>> from plait.balancing.base import Signals
    >>> import torch
    >>> balancer = CoBa(warm_up=3)
    >>> balancer.bind(["click", "stars"])
    >>> for step in range(9):
    ...     held_out = torch.tensor([1.0 - step / 20, 1.0 - step / 10])
    ...     s = Signals.of({"click": 0.3, "stars": 2.0}, step=step, validation=held_out)
    ...     weights = balancer(s)
    ...     balancer.advance(s)
    >>> weights.round(decimals=3)
    tensor([0.6610, 0.3390], dtype=torch.float64)
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.checks import not_negative
from plait.method import Card, Law, Need, Paper


class _State(NamedTuple):
    """The state [t] or [t, N], newest last, with this step in it."""

    first: Tensor
    seen: Tensor
    ratios: Tensor
    slopes: Tensor
    worst: Tensor


@final
class CoBa(Balancer):
    """Convergence balancer; ``window`` N, ``temperature`` τ.

    Weights are even until a task has been seen ``warm_up`` times. Raises ``ValueError`` naming the
    task whose held-out loss is negative.
    """

    card = Card(
        family="balancing",
        name="coba",
        summary="Weights from the slopes of held-out losses.",
        paper=Paper(
            title="CoBa: Convergence Balancer for Multitask Finetuning of Large Language Models",
            authors="Gong, Zi and Yu, Hang and Liao, Cong and Liu, Bingchang and Chen, Chaoyu and "
            "Li, Jianguo",
            year=2024,
            venue="EMNLP",
            url="https://arxiv.org/abs/2410.06741",
        ),
        needs=frozenset({Need.BACKWARD, Need.VALIDATION}),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.SCALE, Law.ROWS}),
        deviations=(
            "D looks back over N steps; the paper's over all of them.",
            "The authors' code does not cap D, and sharpens and floors the weights: see sharpen.",
            "Steps are those in which a task has held-out labels, and each task has its own D.",
            "Held-out losses are those before the step, every step.",
        ),
    )
    rung = Rung.LOSSES
    blind = True
    needs_validation = True
    memory: ClassVar = {"first": math.nan, "seen": 0.0}
    vectors: ClassVar = {"ratios": math.nan, "slopes": math.nan, "worst": math.nan}

    def __init__(
        self,
        *,
        warm_up: int = 100,
        window: int = 200,
        temperature: float = 5.0,
        sharpen: bool = False,
    ) -> None:
        if not (warm_up >= 2 and window >= 2 and temperature > 0):
            raise ValueError(
                "warm_up and window must be at least 2 and temperature positive, got "
                f"{warm_up}, {window} and {temperature}"
            )
        super().__init__()
        self.warm_up = warm_up
        self.window = window
        self.temperature = temperature
        self.sharpen = sharpen

    def forward(self, s: Signals) -> Tensor:
        """α [t], which sums to one."""
        state = self._moved(s)
        ready = state.slopes[:, -1].isfinite()
        count = len(ready)
        weights = torch.full_like(state.seen, 1 / count)
        if ready.any():
            among = self._balanced(state.slopes[ready], state.worst[ready])
            weights[ready] = among * len(among) / count
        return weights

    @torch.no_grad()
    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        """Carry the windows on."""
        super().advance(s, after)
        for name, value in self._moved(s)._asdict().items():
            self.remember(name, s, value)

    def _balanced(self, slopes: Tensor, worst: Tensor) -> Tensor:
        """The weights [t] of tasks that all have slopes [t, N]."""
        count, now = len(slopes), slopes[:, -1]
        relative = (count * _over(now, now.abs().sum())).softmax(0)
        absolute = -_over(now, slopes.abs().nanmean(1))
        size = worst.isfinite().sum(1)
        fall = -self.temperature * _over(worst, worst.abs().nanmean(1, keepdim=True))
        share = fall.masked_fill(fall.isnan(), -math.inf).softmax(1)[:, -1]
        factor = (size * share).clamp(max=math.inf if self.sharpen else 1.0)
        weights = factor * relative + (1 - factor) * absolute.softmax(0)
        if not self.sharpen:
            return weights / weights.sum()
        sharp, floor = (count * weights).softmax(0), 1 / (10 * count)
        return sharp * (1 - count * floor) + floor if bool((sharp < floor).any()) else sharp

    def _moved(self, s: Signals) -> _State:
        assert s.validation is not None
        value = not_negative("coba", "divides by", s, s.validation)
        there = value.isfinite()
        first, seen = self.recall("first", s), self.recall("seen", s) + there
        first = torch.where(first.isnan(), value, first)
        old = [self.recall(name, s, self.window) for name in ("ratios", "slopes", "worst")]
        ratio = torch.where(first > 0, value / first, 1.0)
        ratios = _pushed(old[0], ratio, there)
        due = there & (seen >= self.warm_up)
        highest = ratios.nan_to_num(nan=-math.inf).max(0).values
        highest = highest.masked_fill(highest.isinf(), math.nan)
        slopes = _pushed(old[1], _slope(ratios), due)
        return _State(
            first, seen, ratios, slopes, _pushed(old[2], _slope(highest[None]).expand_as(due), due)
        )


def _pushed(windows: Tensor, value: Tensor, where: Tensor) -> Tensor:
    """Windows [t, N] with a value [t] added at the end, where it is due."""
    longer = torch.cat([windows[:, 1:], value[:, None]], 1)
    return torch.where(where[:, None], longer, windows)


def _slope(series: Tensor) -> Tensor:
    """The slope [n] of the line of least squares through each row [n, N], NaN left out."""
    there = series.isfinite()
    size = there.sum(1, keepdim=True).clamp(min=1)
    place = torch.arange(series.shape[1], dtype=series.dtype, device=series.device)
    place = torch.where(there, place - (place * there).sum(1, keepdim=True) / size, 0.0)
    square = place.square().sum(1)
    return torch.where(square > 0, (place * series.nan_to_num()).sum(1) / square, 0.0)


def _over(value: Tensor, size: Tensor) -> Tensor:
    """A quotient that is zero where there is nothing to divide by."""
    return torch.where(size > 0, value / size, torch.where(value.isnan(), value, 0.0))
