"""Loss scaling and accumulation: the balancer sees what is unscaled and whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import plait
from plait.balancing.base import Balancer
from plait.training import Engine
from plait.training.measuring import Losses

METHODS = ("equal", "uncertainty", "famo", "pcgrad", "nash_mtl", "fairgrad", "graddrop", "mgda")
NAMES = "abc"


class Mine(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh())
        self.heads = nn.ModuleDict({name: nn.Linear(4, 1) for name in NAMES})
        self.to(dtype)

    def losses(self, stacked: bool = False) -> dict[str, Tensor] | Losses:
        dtype = self.trunk[0].weight.dtype
        x = torch.randn(7, 6, generator=torch.Generator().manual_seed(1), dtype=dtype)
        self.features = self.trunk(x)
        found = {
            name: (head(self.features) - ord(name) % 5).square().mean()
            for name, head in self.heads.items()
        }
        if not stacked:
            return found
        return Losses(tuple(found), torch.stack(list(found.values())), torch.ones(3, dtype=dtype))

    def step(self, balancer: Balancer, stacked: bool = False, **given: object) -> plait.Signals:
        losses = self.losses(stacked)
        return plait.backward(
            losses,
            self.trunk.parameters(),
            balancer,
            specific=self.heads.parameters(),
            features=self.features,
            **given,
        )

    def gradients(self) -> list[Tensor]:
        return [p.grad.clone() for p in self.parameters() if p.grad is not None]


@pytest.mark.parametrize("stacked", [False, True], ids=["by name", "stacked"])
@pytest.mark.parametrize("name", METHODS)
def test_a_scaled_step_is_the_unscaled_one(name, stacked):
    model, scaler = Mine(), torch.amp.GradScaler("cpu", init_scale=2.0**16)
    plain, other = (plait.resolve("balancing", name) for _ in "ab")
    told = model.step(plain, stacked)
    wanted = model.gradients()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    model.zero_grad()
    seen = model.step(other, stacked, scaler=scaler)
    assert float(model.trunk[0].weight.grad.abs().max()) > 1e2  # scaled, as the scaler expects
    scaler.unscale_(optimizer)
    for one, two in zip(model.gradients(), wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(seen.losses, told.losses)
    if told.weights is not None:
        torch.testing.assert_close(seen.weights, told.weights, rtol=1e-12, atol=0)


def test_at_the_features_too():
    model, scaler = Mine(), torch.amp.GradScaler("cpu", init_scale=2.0**16)
    engine = Engine(at="features")
    told = model.step(plait.resolve("balancing", "nash_mtl"), engine=engine)
    wanted = model.gradients()
    model.zero_grad()
    seen = model.step(plait.resolve("balancing", "nash_mtl"), engine=engine, scaler=scaler)
    torch.testing.assert_close(seen.gram, told.gram)
    for one, two in zip(model.gradients(), wanted, strict=True):
        torch.testing.assert_close(one, two * 2.0**16, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["pcgrad", "nash_mtl", "graddrop"])
def test_a_step_that_overflows_is_skipped_and_the_scale_falls(name):
    model = Mine(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    balancer = plait.resolve("balancing", name)
    before = [p.detach().clone() for p in model.parameters()]
    signals = model.step(balancer, scaler=scaler)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**126
    assert signals.dropped == ("a", "b", "c")
    assert int(balancer.updates) == 0
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    while int(balancer.updates) < 3:  # goes on where it fits
        optimizer.zero_grad()
        model.step(balancer, scaler=scaler)
        scaler.step(optimizer)
        scaler.update()
    assert not torch.equal(model.trunk[0].weight, before[0])


def test_half_precision_needs_the_scale():
    """Gradients of some 1e-7 are nothing in float16, and scaled they are there."""

    def shared(scaler: torch.amp.GradScaler | None) -> Tensor:
        model = Mine(torch.float32)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with torch.autocast("cpu", dtype=torch.float16):
            losses = {k: v.float() * 1e-7 for k, v in model.losses().items()}
        plait.backward(losses, model.trunk.parameters(), plait.resolve("balancing", "pcgrad"),
                       scaler=scaler)  # fmt: skip
        if scaler is not None:
            scaler.unscale_(optimizer)
        return torch.cat([p.grad.flatten() for p in model.trunk.parameters()])

    exact = Mine(torch.float32)
    losses = {k: v * 1e-7 for k, v in exact.losses().items()}
    plait.backward(losses, exact.trunk.parameters(), plait.resolve("balancing", "pcgrad"))
    wanted = torch.cat([p.grad.flatten() for p in exact.trunk.parameters()])
    far = [float((shared(s) - wanted).norm() / wanted.norm()) for s in (None, scaler())]
    assert far[0] > 0.3
    assert far[1] < 0.02


def scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=2.0**16)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("at", [None, "features"])
def test_a_share_multiplies_what_is_added_after_the_balancer_has_seen_the_whole(name, at):
    if at is not None and name == "graddrop":
        pytest.skip("needs the gradients themselves")
    model = Mine()
    told = model.step(plait.resolve("balancing", name), engine=Engine(at=at))
    wanted = model.gradients()
    model.zero_grad()
    for _ in range(4):
        seen = model.step(plait.resolve("balancing", name), engine=Engine(at=at), share=0.25)
    for one, two in zip(model.gradients(), wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)
    if told.gram is not None:
        torch.testing.assert_close(seen.gram, told.gram)


def test_what_cannot_be_scaled_is_refused():
    model = Mine()
    with pytest.raises(ValueError, match="share must be positive"):
        model.step(plait.resolve("balancing", "equal"), share=0.0)
    losses = [model.losses(), model.losses()]
    with pytest.raises(ValueError, match="one process and one batch"):
        plait.backward(losses, model.trunk.parameters(), plait.resolve("balancing", "modo"),
                       scaler=scaler())  # fmt: skip
