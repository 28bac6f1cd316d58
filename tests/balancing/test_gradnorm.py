from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from plait.balancing.base import Signals
from plait.balancing.equal import Equal
from plait.balancing.gradnorm import GradNorm
from plait.training import backward


def signals(norms: list[float], losses: list[float], **given: object) -> Signals:
    gram = torch.diag(torch.tensor(norms, dtype=torch.float64).square())
    return Signals.of(dict(zip("abcdef", losses, strict=False)), gram=gram, **given)


def bound(names: str, **given: float) -> GradNorm:
    balancer = GradNorm(**given)
    balancer.bind(names)
    return balancer


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
def test_equals_the_papers_loss_through_autograd(alpha: float):
    """|G_i − C_i|₁ with G_i = ‖∇(w_i L_i)‖ differentiated in w, C_i a constant; Adam; Σw = T."""
    draw = torch.Generator().manual_seed(0)
    ours = bound("abc", alpha=alpha, rate=0.05)
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([w], lr=0.05)
    first: torch.Tensor | None = None
    for step in range(40):
        losses = torch.rand(3, generator=draw, dtype=torch.float64) + 0.2
        rows = torch.randn(3, 5, generator=draw, dtype=torch.float64) * torch.tensor(
            [[1], [5], [9]]
        )
        s = Signals.of(
            dict(zip("abc", losses.tolist(), strict=True)), gram=rows @ rows.T, step=step
        )
        torch.testing.assert_close(ours(s), w.detach(), rtol=1e-9, atol=0)
        first = losses if first is None else first
        grown = (w[:, None] * rows).norm(dim=1)
        pace = (losses / first) / (losses / first).mean()
        target = (grown.mean() * pace**alpha).detach()
        adam.zero_grad()
        (grown - target).abs().sum().backward()
        adam.step()
        with torch.no_grad():
            w.clamp_(min=1e-3).mul_(3 / w.sum())
        ours.advance(s)


def test_without_pace_the_weights_become_inverse_norms():
    balancer, s = bound("abc", alpha=0.0, rate=0.01), signals([1.0, 2.0, 4.0], [1.0, 1.0, 1.0])
    for _ in range(600):
        balancer.advance(s)
    wanted = torch.tensor([1.0, 0.5, 0.25]).double()
    torch.testing.assert_close(balancer(s), 3 * wanted / wanted.sum(), rtol=0.05, atol=0)


def test_equal_norms_and_paces_change_nothing():
    balancer, s = bound("ab"), signals([2.0, 2.0], [1.0, 3.0])
    for _ in range(5):
        balancer.advance(s)
    assert balancer(s).tolist() == [1.0, 1.0]


def test_the_slower_task_gains_weight():
    balancer = bound("ab")
    balancer.advance(signals([1.0, 1.0], [1.0, 1.0]))
    for _ in range(10):
        balancer.advance(s := signals([1.0, 1.0], [0.9, 0.3]))
    weights = balancer(s)
    assert weights[0] > 1.1 > 0.9 > weights[1]
    assert weights.sum().item() == pytest.approx(2.0)


def test_the_first_loss_may_be_a_mean_over_several_steps():
    balancer = bound("ab", start=3)
    for a in (1.0, 2.0, 6.0, 50.0):
        balancer.advance(signals([1.0, 1.0], [a, 1.0]))
    assert balancer.first.tolist() == [3.0, 1.0]


def test_preferences_stay_outside():
    """With preferences p the engine's gradients are p times as long; w must not undo that."""
    preferences = torch.tensor([4.0, 1.0])
    plain, wide = bound("ab"), bound("ab")
    for losses in ([1.0, 1.0], [0.5, 0.9], [0.4, 0.9]):
        plain.advance(signals([1.0, 3.0], losses))
        wide.advance(signals([4.0, 3.0], losses, preferences=preferences))
    torch.testing.assert_close(plain.weight, wide.weight, rtol=1e-6, atol=0)


def test_absent_tasks_keep_their_part():
    balancer = bound("abc")
    for _ in range(3):
        balancer.advance(signals([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]))
    before = balancer.weight.clone()
    balancer.advance(signals([1.0, 5.0], [1.0, 1.0]))
    assert balancer.weight[2] == before[2]
    assert balancer.weight[:2].sum().item() == pytest.approx(before[:2].sum().item())
    assert not torch.equal(balancer.weight[:2], before[:2])
    assert balancer(signals([1.0, 5.0], [1.0, 1.0])).sum().item() == pytest.approx(2.0)


def test_losses_and_settings_are_checked():
    with pytest.raises(ValueError, match=r"gradnorm divides by .* task 'b' is negative"):
        bound("ab").advance(signals([1.0, 1.0], [1.0, -1.0]))
    for wrong in ({"rate": 0.0}, {"start": 0}, {"floor": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            GradNorm(**wrong)


class Toy(nn.Module):
    """The paper's: f_i(x) = σ_i tanh((B + ε_i) x), a trunk of four ReLU layers, linear heads.

    The maps are divided by the number of inputs: as they are written every tanh is at its end.
    """

    def __init__(self, scales: list[float], seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        common = 10**0.5 * torch.randn(100, 250, generator=draw)
        own = 3.5**0.5 * torch.randn(len(scales), 100, 250, generator=draw)
        self.maps, self.scales = (common + own) / 250, scales
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            widths = (250, 100, 100, 100, 100)
            pairs = pairwise(widths)
            layers = [part for a, b in pairs for part in (nn.Linear(a, b), nn.ReLU())]
            self.trunk = nn.Sequential(*layers)
            self.heads = nn.ModuleList(nn.Linear(100, 100) for _ in scales)

    def losses(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features, found = self.trunk(x), {}
        for i, (head, scale, matrix) in enumerate(
            zip(self.heads, self.scales, self.maps, strict=True)
        ):
            error = head(features) - scale * torch.tanh(x @ matrix.T)
            found[f"f{i}"] = error.square().mean()
        return found


@torch.no_grad()
def measured(toy: Toy, x: torch.Tensor) -> dict[str, float]:
    return {name: float(value) for name, value in toy.losses(x).items()}


def toy_ratio(balancer: Equal | GradNorm, steps: int = 600) -> float:
    """The sum over tasks of test losses over their first values, after training."""
    toy = Toy([1.0, 100.0], seed=0)
    draw = torch.Generator().manual_seed(1)
    held_out = torch.randn(1_000, 250, generator=draw)
    first = measured(toy, held_out)
    adam = torch.optim.Adam(toy.parameters(), lr=1e-3)
    for _ in range(steps):
        adam.zero_grad()
        x = torch.randn(100, 250, generator=draw)
        backward(toy.losses(x), list(toy.trunk.parameters()), balancer)
        adam.step()
    return sum(value / first[name] for name, value in measured(toy, held_out).items())


@pytest.mark.slow
def test_beats_equal_weights_on_the_papers_toy():
    balancer = GradNorm(alpha=0.12)
    weighted, plain = toy_ratio(balancer), toy_ratio(Equal())
    assert weighted < 0.8 * plain
    assert balancer.weight[0] > 10 * balancer.weight[1]  # the task of the small unit
