"""What methods of the Gramian promise, on random Gramians of any shape and scale."""

from __future__ import annotations

import torch
from gradients import signals
from hypothesis import assume, given
from hypothesis import strategies as some
from torch import Tensor

from plait.balancing.aligned_mtl import AlignedMTL
from plait.balancing.cagrad import CAGrad
from plait.balancing.fairgrad import FairGrad
from plait.balancing.mgda import MGDA
from plait.balancing.nash_mtl import NashMTL
from plait.balancing.pcgrad import PCGrad
from plait.balancing.upgrad import UPGrad


@some.composite
def gradients(draw: some.DrawFn, tasks: int | None = None) -> Tensor:
    """Rows [t, p] whose lengths lie up to four decades apart, with any cosines between them."""
    count = draw(some.integers(2, 6)) if tasks is None else tasks
    size = draw(some.integers(count, 9))
    random = torch.Generator().manual_seed(draw(some.integers(0, 2**31)))
    rows = torch.randn(count, size, generator=random, dtype=torch.float64)
    pull = draw(some.floats(0, 3)) * torch.randn(size, generator=random, dtype=torch.float64)
    decades = 4 * torch.rand(count, 1, generator=random, dtype=torch.float64) - 2
    rows = (rows + pull) * 10**decades
    assume(torch.linalg.cond(rows / rows.norm(dim=1, keepdim=True)) < 1e3)
    return rows


@given(gradients(), some.integers(0, 5), some.floats(1e-3, 1e3))
def test_nash_goes_the_same_way_in_any_unit_of_a_loss(rows: Tensor, which: int, factor: float):
    scaled = rows.clone()
    scaled[which % len(rows)] *= factor
    one, two = NashMTL()(signals(rows)) @ rows, NashMTL()(signals(scaled)) @ scaled
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6 * float(one.norm()))
    torch.testing.assert_close(one.square().sum(), torch.tensor(float(len(rows))).double())


@given(gradients(), some.floats(0.5, 5))
def test_fairgrad_solves_its_equation(rows: Tensor, fairness: float):
    s = signals(rows)
    weights = FairGrad(fairness=fairness)(s)
    torch.testing.assert_close(s.gram @ weights, weights ** (-1 / fairness), rtol=1e-5, atol=0)


@given(gradients())
def test_the_gradients_that_aligned_adds_have_condition_number_one(rows: Tensor):
    """They are the nearest that have equal singular values, those of the smallest of the rows."""
    rows = rows / rows.norm(dim=1, keepdim=True)
    left, sizes, right = torch.linalg.svd(rows, full_matrices=False)
    aligned = sizes[-1] * left @ right
    assert float(torch.linalg.cond(aligned)) < 1 + 1e-9
    update = AlignedMTL()(signals(rows)) @ rows
    torch.testing.assert_close(update, aligned.sum(0), rtol=1e-6, atol=1e-9)


@given(gradients(tasks=2))
def test_two_tasks_under_pcgrad_do_not_conflict(rows: Tensor):
    update = PCGrad()(signals(rows)) @ rows
    assert (rows @ update > -1e-9 * rows.norm(dim=1) * update.norm()).all()


@given(gradients())
def test_upgrad_and_mgda_oppose_no_task(rows: Tensor):
    for balancer in (UPGrad(), MGDA()):
        update = balancer(signals(rows)) @ rows
        assert (rows @ update > -1e-6 * rows.norm(dim=1) * update.norm()).all()


@given(gradients(), some.floats(0.1, 0.9))
def test_cagrad_stays_within_its_ball(rows: Tensor, c: float):
    mean = rows.mean(0)
    update = CAGrad(c=c, rescale=0)(signals(rows)) @ rows
    torch.testing.assert_close((update - mean).norm(), c * mean.norm(), rtol=1e-5, atol=0)
