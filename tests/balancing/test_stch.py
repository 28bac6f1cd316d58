from __future__ import annotations

import pytest
import torch
from torchjd import scalarization

from plait.balancing.base import Signals
from plait.balancing.stch import STCH


def named(values: torch.Tensor, **given: object) -> Signals:
    return Signals.of(dict(zip("abcdef", values.tolist(), strict=False)), **given)


def warm(losses: list[list[float]], names: str = "ab", **given: float) -> STCH:
    balancer = STCH(warm_up=len(losses), window=2, **given)
    balancer.bind(names)
    for step, values in enumerate(losses):
        balancer.advance(named(torch.tensor(values), step=step))
    return balancer


@pytest.mark.parametrize("mu", [1.0, 0.1, 0.01])
def test_linear_form_equals_torchjd_with_preferences_as_its_weights(mu: float):
    draw = torch.Generator().manual_seed(0)
    for reference in (0.0, 0.3):
        values = (torch.rand(4, generator=draw, dtype=torch.float64) - 0.2).requires_grad_()
        preferences = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
        share = preferences / preferences.sum()
        theirs = scalarization.STCH(mu, weights=share, reference=values.detach() * 0 + reference)
        theirs(values).backward()
        s = named(values.detach(), preferences=preferences)
        found = STCH(form="linear", mu=mu, reference=reference)(s) * preferences  # as the engine
        torch.testing.assert_close(found, values.grad, rtol=1e-9, atol=1e-15)


def test_log_form_equals_the_authors_two_phases():
    seen = [[2.0, 9.0], [4.0, 5.0], [1.0, 3.0], [3.0, 1.0]]  # the last two make n = (2, 2)
    values = torch.tensor([3.0, 0.5], dtype=torch.float64, requires_grad=True)
    before = STCH(warm_up=4, window=2)
    before.bind("ab")
    torch.testing.assert_close(before(named(values.detach())), 1 / values.detach())
    for mu in (1.0, 0.2):
        balancer = warm(seen, mu=mu)
        (2 * mu * torch.logsumexp((values / 2.0).log() / mu, 0)).backward()
        torch.testing.assert_close(balancer(named(values.detach())), values.grad)
        values.grad = None


def test_the_reference_is_frozen_after_warm_up():
    balancer = warm([[2.0, 2.0], [2.0, 2.0]])
    s = named(torch.tensor([1.0, 4.0]))
    before = balancer(s)
    for step in range(5):
        balancer.advance(named(torch.tensor([9.0, 0.1]), step=step + 2))
    assert torch.equal(balancer(s), before)


def test_limits_of_mu():
    s = named(torch.tensor([1.0, 4.0]))
    seen = [[2.0, 2.0], [2.0, 2.0]]
    worst = warm(seen, mu=1e-3)(s)
    torch.testing.assert_close(worst, torch.tensor([0.0, 2 / 4.0]).double(), atol=1e-12, rtol=0)
    even = warm(seen, mu=1e6)(s)
    torch.testing.assert_close(even, 1 / s.losses, rtol=1e-5, atol=0)
    for mu in (1e-3, 0.3, 1.0, 50.0):
        assert (warm(seen, mu=mu)(s) * s.losses).sum().item() == pytest.approx(2.0)


def test_a_task_that_comes_late_counts_by_its_log_loss_until_it_is_warm():
    balancer = warm([[2.0, 2.0], [2.0, 2.0]], names="abc")
    s = named(torch.tensor([1.0, 4.0, 5.0]))
    weights = balancer(s)
    assert weights[2].item() == pytest.approx(1 / 5.0)
    torch.testing.assert_close(weights[:2], balancer(named(s.losses[:2])))
    for _ in range(2):
        balancer.advance(s)
    assert (balancer(s) * s.losses).sum().item() == pytest.approx(3.0)
    assert balancer(s)[2].item() != pytest.approx(1 / 5.0)


def test_reference_by_task():
    s = named(torch.tensor([1.0, 2.0]))
    by_name = STCH(form="linear", reference={"b": 1.0, "a": 0.0})(s)
    torch.testing.assert_close(by_name, torch.full((2,), 0.25).double())
    with pytest.raises(ValueError, match="reference is given by task, and lacks b"):
        STCH(form="linear", reference={"a": 1.0})(s)


def test_losses_and_settings_are_checked():
    with pytest.raises(ValueError, match=r"stch takes logarithms .* task 'b' is negative"):
        STCH()(named(torch.tensor([1.0, -2.0])))
    for wrong in ({"mu": 0.0}, {"form": "square"}, {"warm_up": 2, "window": 3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            STCH(**wrong)
