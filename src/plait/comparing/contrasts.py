"""Many strategies at once: mean ranks, and each against one of them, task by task and seed by seed.

A *block* is one task with one seed. In each the strategies are ranked (1 is best, ties share the
mean of their ranks), and each strategy's figure is compared with the same block's figure of the one
it is held against, in per cent of that one's mean over seeds. The differences are tested by
Wilcoxon's signed ranks, two-sided, and the p-values raised by Holm's step-down procedure, so that
the chance of one or more false findings among all strategies stays at the level (Demšar, 2006,
Journal of Machine Learning Research 7; Holm, 1979). Blocks of one task share their test rows: the
test says what another training would do on these tasks, not what other tasks would show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from plait.metrics.base import Floats

LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One strategy among others, over blocks that all of them have.

    ``rank`` is its mean rank. ``difference`` is the mean over blocks against ``against``, in per
    cent of that one's figures, higher is better; ``better`` and ``worse`` count blocks. ``p`` is of
    the single test, ``adjusted`` after Holm; both are None for ``against`` itself.
    """

    strategy: str
    against: str
    rank: float
    blocks: int
    difference: float = 0.0
    better: int = 0
    worse: int = 0
    p: float | None = None
    adjusted: float | None = None

    @property
    def significant(self) -> bool:
        """Whether it differs from ``against`` beyond noise, all comparisons counted."""
        return self.adjusted is not None and self.adjusted < LEVEL


def contrasts(blocks: Mapping[str, Floats], against: str) -> list[Contrast]:
    """Every strategy with figures in all blocks, by mean rank, best first.

    ``blocks`` holds each one's figures [T, K] of tasks and seeds, higher is better, NaN where there
    is none; a block that ``against`` has no figure in is left out, as is a strategy that lacks one
    of the others. Raises ``ValueError`` where ``against`` is not among them.
    """
    if against not in blocks:
        raise ValueError(f"no strategy {against!r} to compare with")
    base = blocks[against]
    size = np.broadcast_to(np.abs(_row_means(base))[:, None], base.shape)
    there = np.isfinite(base) & (size > 0)
    kept = {name: values for name, values in blocks.items() if np.isfinite(values[there]).all()}
    if not there.any():
        return []
    ranks = mean_ranks({name: values[there] for name, values in kept.items()})
    found = [
        _against(name, against, ranks[name], 100 * (values - base)[there] / size[there])
        for name, values in kept.items()
    ]
    single = {each.strategy: each.p for each in found if each.p is not None}
    raised = dict(zip(single, holm(list(single.values())), strict=True))
    whole = [replace(each, adjusted=raised.get(each.strategy)) for each in found]
    return sorted(whole, key=lambda each: (each.rank, each.strategy))


def mean_ranks(values: Mapping[str, Floats]) -> dict[str, float]:
    """The mean rank of each name over blocks [n], 1 for the highest value; ties share theirs.

    >>> mean_ranks({"a": np.array([3.0, 1.0]), "b": np.array([2.0, 1.0])})
    {'a': 1.25, 'b': 1.75}
    """
    from scipy.stats import rankdata

    ranks = rankdata([-each for each in values.values()], axis=0)
    return {name: float(row.mean()) for name, row in zip(values, ranks, strict=True)}


def holm(p: Sequence[float]) -> list[float]:
    """p-values raised for their number by Holm's step-down procedure, in the given order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    raised = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    raised = np.minimum(np.maximum.accumulate(raised), 1.0) if len(p) else raised
    found = np.empty(len(p))
    found[order] = raised
    return [float(each) for each in found]


def _against(name: str, against: str, rank: float, differences: Floats) -> Contrast:
    plain = Contrast(strategy=name, against=against, rank=rank, blocks=len(differences))
    if name == against:
        return plain
    return replace(
        plain,
        difference=float(differences.mean()),
        better=int((differences > 0).sum()),
        worse=int((differences < 0).sum()),
        p=signed_ranks(differences),
    )


def signed_ranks(differences: Floats) -> float:
    """The two-sided p-value of Wilcoxon's signed ranks; 1 where nothing differs."""
    from scipy.stats import wilcoxon

    moved = differences[differences != 0]
    return float(wilcoxon(moved).pvalue) if len(moved) else 1.0


def _row_means(values: Floats) -> Floats:
    """The mean of what is defined in each row [T], NaN where nothing is."""
    there = np.isfinite(values)
    out = np.full(len(values), np.nan)
    np.divide(np.where(there, values, 0.0).sum(1), there.sum(1), out=out, where=there.any(1))
    return out
