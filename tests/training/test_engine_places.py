"""Gradients elsewhere than on all shared parameters of one batch: features, last layer, parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from training_toys import Deck, furthest, make_network, slices

import plait
from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.equal import Equal
from plait.balancing.graddrop import GradDrop
from plait.balancing.pcgrad import PCGrad
from plait.method import Card
from plait.networks import build_network
from plait.sharing.mmoe import Mmoe
from plait.testing.toys import toy_inputs
from plait.training import Engine
from plait.training.procedures.base import Ground, Problem
from plait.training.procedures.plain import Plain


class Spy(Balancer):
    """Keeps what it saw and answers as the test says."""

    card = Card(family="balancing", name="spy", summary="for tests only")
    rung = Rung.GRAM

    def forward(self, s: Signals) -> Tensor:
        self.seen = s
        weights: Tensor = self.answer(s)
        return weights

    def answer(self, s: Signals) -> Tensor:
        return torch.arange(1.0, 1.0 + len(s.tasks), dtype=torch.float64)


def step(network, batch, balancer, pieces: int = 1, **more: object) -> tuple[Signals, dict]:
    network.zero_grad()
    balancer.bind(network.tasks.names)
    ground = Ground(network, seed=3, micro_batches=pieces, **more)
    signals = Plain().gradients(Problem(ground, batch, 0), balancer)
    found = {
        n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for n, p in network.named_parameters()
    }
    return signals, found


def flat(gradients: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("pieces", [1, 3])
def test_features_stand_in_for_the_parameters(network, deck, pieces):
    batch, spy = deck.batch(0), Spy()
    signals, found = step(network, batch, spy, pieces, engine=Engine(at="features"))
    problem = Problem(Ground(network, seed=3), batch, 0)
    piece, outputs = problem.run(0)
    losses, _ = problem.look(0)
    del piece, losses
    features = next(iter(outputs.features.values())).values
    from plait.training.measuring import total

    value = total(batch, outputs, problem.units).value
    rows = [flat([torch.autograd.grad(v, features, retain_graph=True)[0]]) for v in value]
    wanted = torch.stack(rows)
    torch.testing.assert_close(signals.gram, wanted @ wanted.T, rtol=1e-10, atol=1e-14)
    network.zero_grad()
    torch.dot(
        signals.weights, Problem(Ground(network, seed=3), batch, 0).look(0)[0].value
    ).backward()
    plain = {n: p.grad for n, p in network.named_parameters()}
    assert furthest(found, plain) < 1e-12


@pytest.mark.parametrize("pieces", [1, 3])
def test_the_last_layer_stands_in_for_all(network, deck, monkeypatch, pieces):
    monkeypatch.setattr(Spy, "at", "last")
    signals, _ = step(network, deck.batch(0), Spy(), pieces)
    value = Problem(Ground(network, seed=3), deck.batch(0), 0).look(0)[0].value
    last = network.last_shared()
    wanted = torch.stack([flat(torch.autograd.grad(v, last, retain_graph=True)) for v in value])
    torch.testing.assert_close(signals.gram, wanted @ wanted.T, rtol=1e-10, atol=1e-14)


def test_layers_sum_to_the_whole_and_can_be_weighed_apart(network, deck, monkeypatch):
    monkeypatch.setattr(Spy, "by_layer", True)
    spy = Spy()
    monkeypatch.setattr(
        Spy,
        "answer",
        lambda _, s: torch.stack(
            [torch.full_like(s.losses, 1.0 + g) for g in range(len(s.layers))]
        ),
    )
    signals, found = step(network, deck.batch(0), spy)
    torch.testing.assert_close(spy.seen.layers.sum(0), spy.seen.gram)
    _, plain = step(network, deck.batch(0), Equal())
    for place, (name, _) in enumerate(
        (n, p) for n, p in network.named_parameters() if "trunk" in n
    ):
        torch.testing.assert_close(found[name], plain[name] * (1 + place // 2))
    assert signals.weights.tolist() == [(1 + len(spy.seen.layers)) / 2] * 5


def test_parts_of_a_batch_are_compared_and_weighed(network, deck, monkeypatch):
    monkeypatch.setattr(Spy, "samples", 3)
    spy, batch = Spy(), deck.batch(0)
    only_last = lambda _, s: torch.stack([0 * s.losses, 0 * s.losses, s.losses * 0 + 1])  # noqa: E731
    monkeypatch.setattr(Spy, "answer", only_last)
    _, found = step(network, batch, spy)
    parts = [batch.rows(torch.arange(start, len(batch), 3)) for start in range(3)]
    rows = []
    for part in parts:
        value = Problem(Ground(network, seed=3), part, 0).look(0)[0].value
        shared = network.shared_parameters()
        rows.append(
            torch.stack([flat(torch.autograd.grad(v, shared, retain_graph=True)) for v in value])
        )
    for a in range(3):
        for b in range(3):
            torch.testing.assert_close(spy.seen.samples[a, b], rows[a] @ rows[b].T)
    shared_names = [
        n for n, p in network.named_parameters() if any(p is s for s in network.shared_parameters())
    ]
    torch.testing.assert_close(flat([found[n] for n in shared_names]), rows[2].sum(0))
    whole, _ = step(network, batch, PCGrad())
    torch.testing.assert_close(spy.seen.gram, whole.gram)


def test_in_a_loop_of_ones_own_the_parts_are_a_list_of_losses(monkeypatch):
    torch.manual_seed(0)
    trunk, heads = nn.Linear(4, 3), nn.ModuleDict({n: nn.Linear(3, 1) for n in "ab"})
    monkeypatch.setattr(Spy, "samples", 2)
    spy = Spy()

    def losses(names):
        h = trunk(torch.randn(5, 4))
        return {n: heads[n](h).square().mean() for n in names}

    plait.backward([losses("ab"), losses("a")], trunk.parameters(), spy)
    assert spy.seen.tasks == ("a", "b")
    assert not spy.seen.samples[1, 1, 1].any()
    with pytest.raises(ValueError, match="takes the losses of 2 independent parts"):
        plait.backward([losses("ab")], trunk.parameters(), spy)
    with pytest.raises(ValueError, match="compares 2 independent parts"):
        plait.backward(losses("ab"), trunk.parameters(), spy)


class Listener(Balancer):
    """Weighs by held-out losses."""

    card = Card(family="balancing", name="listener", summary="for tests only")
    needs_validation = True

    def forward(self, s: Signals) -> Tensor:
        assert s.validation is not None
        self.seen = s
        return s.validation.nan_to_num(1.0)


def test_held_out_losses_are_told_before_the_step(tasks, deck):
    network = make_network(tasks, dropout=0.5)
    other = Deck(tasks, rows=10, missing=lambda _: ["counts.4"])
    signals, _ = step(network, deck.batch(0), listener := Listener(), validation=other)
    network.eval()
    wanted = Problem(Ground(network), other.batch(0), 0).measure()
    network.train()
    assert listener.seen.validation.isnan().tolist() == [n == "counts.4" for n in signals.tasks]
    torch.testing.assert_close(listener.seen.validation[~listener.seen.validation.isnan()], wanted)
    with pytest.raises(ValueError, match="listener learns from losses on held-out rows"):
        plait.fit(network, deck, Listener(), steps=1)
    plait.fit(network, deck, Listener(), steps=2, validation=other)
    assert slices(network)


def test_what_features_cannot_do_is_refused(tasks, network, deck):
    features = Engine(at="features")
    with pytest.raises(ValueError, match="graddrop needs the gradients themselves"):
        step(network, deck.batch(0), GradDrop(), engine=features)
    mmoe = build_network(
        inputs=toy_inputs(), tasks=tasks, encoder={"trunk": {"mlp": {"width": 8}}},
        sharing=Mmoe(experts=2, width=4), seed=0,
    ).double()  # fmt: skip
    with pytest.raises(ValueError, match="every task reads features of its own"):
        step(mmoe, deck.batch(0), PCGrad(), engine=features)
    trunk, heads = nn.Linear(4, 3), nn.ModuleDict({n: nn.Linear(3, 1) for n in "ab"})
    h = trunk(torch.randn(6, 4))
    apart = {"a": heads["a"](h[:3]).mean(), "b": heads["b"](h[3:]).mean()}
    with pytest.raises(ValueError, match="read by one task only"):
        plait.backward(apart, trunk.parameters(), PCGrad(), features=h, engine=features)
    with pytest.raises(ValueError, match="pass it as `features`"):
        plait.backward(apart, trunk.parameters(), PCGrad(), engine=features)
    with pytest.raises(ValueError, match="at must be"):
        Engine(at="heads")


@pytest.mark.slow
def test_a_compiled_trunk_gives_the_same_gradients():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh())
    heads = nn.ModuleDict({n: nn.Linear(4, 1) for n in "abc"})
    x, found = torch.randn(5, 6), []
    for run in (trunk, torch.compile(trunk, backend="aot_eager")):
        trunk.zero_grad()
        features = run(x)
        losses = {n: head(features).square().mean() for n, head in heads.items()}
        plait.backward(losses, trunk.parameters(), PCGrad(), step=0)
        found.append(flat([p.grad for p in trunk.parameters()]))
    torch.testing.assert_close(*found)
