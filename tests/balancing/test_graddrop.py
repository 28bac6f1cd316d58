from __future__ import annotations

import pytest
import torch
from torchjd.aggregation import GradDrop as Theirs

from plait.balancing.base import Signals
from plait.balancing.graddrop import GradDrop
from plait.data.seeding import key


def jacobian(tasks: int, size: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(tasks, size, generator=draw, dtype=torch.float64)


def signals(rows: torch.Tensor, **given: int) -> Signals:
    return Signals.of({f"t{i}": 1.0 for i in range(len(rows))}, jacobian=rows, **given)


@pytest.mark.parametrize("leak", [0.0, 0.3])
def test_equals_torchjd_on_the_same_draw(leak: float):
    rows = jacobian(4, 500)
    theirs = Theirs(leak=torch.full((4,), leak, dtype=torch.float64))
    with torch.random.fork_rng():
        torch.manual_seed(key("graddrop", 3, 5))
        wanted = theirs(rows)
    found = GradDrop(leak=leak)(signals(rows, seed=3, step=5))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_each_task_may_have_a_leak_of_its_own():
    rows, leak = jacobian(3, 500), [0.0, 0.4, 1.0]
    with torch.random.fork_rng():
        torch.manual_seed(key("graddrop", 0, 0))
        wanted = Theirs(leak=torch.tensor(leak, dtype=torch.float64))(rows)
    named = {f"t{i}": share for i, share in enumerate(leak)}
    found = GradDrop(leak=named)(signals(rows))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="leak is given by task, and lacks t2"):
        GradDrop(leak={"t0": 0.1, "t1": 0.2})(signals(rows))


def test_its_mean_over_draws_is_purity_weighted():
    rows = jacobian(3, 20)
    draws = torch.stack([GradDrop()(signals(rows, step=step)) for step in range(4_000)])
    up, down = rows.clamp(min=0).sum(0), -rows.clamp(max=0).sum(0)
    wanted = (up**2 - down**2) / (up + down)
    torch.testing.assert_close(wanted, rows.sum(0))  # which is the plain sum
    error = draws.std(0) / 4_000**0.5
    assert ((draws.mean(0) - wanted).abs() < 5 * error + 1e-12).all()


def test_each_coordinate_keeps_one_sign():
    rows = jacobian(5, 300)
    update = GradDrop()(signals(rows))
    up, down = rows.clamp(min=0).sum(0), rows.clamp(max=0).sum(0)
    assert (torch.isclose(update, up) | torch.isclose(update, down)).all()
    assert (torch.isclose(update, up) & ~torch.isclose(up, down)).any()
    assert torch.isclose(update, down).any()


def test_agreeing_signs_lose_nothing_and_nothing_stays_nothing():
    rows = jacobian(3, 50).abs()
    rows[:, 10:] *= -1
    rows[:, 20:30] = 0
    torch.testing.assert_close(GradDrop()(signals(rows)), rows.sum(0))


def test_a_full_leak_is_the_sum():
    rows = jacobian(3, 50)
    torch.testing.assert_close(GradDrop(leak=1.0)(signals(rows)), rows.sum(0))


def test_draws_differ_by_step_and_repeat_by_seed():
    rows = jacobian(3, 200)
    one = GradDrop()(signals(rows, step=1, seed=2))
    assert torch.equal(one, GradDrop()(signals(rows, step=1, seed=2)))
    assert not torch.equal(one, GradDrop()(signals(rows, step=2, seed=2)))
    assert not torch.equal(one, GradDrop()(signals(rows, step=1, seed=3)))


def test_leak_is_checked():
    for wrong in (1.5, {"a": 0.5, "b": -0.1}):
        with pytest.raises(ValueError, match="leak"):
            GradDrop(leak=wrong)
