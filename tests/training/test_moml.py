from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from stepping import ahead, ground_of, losses_at, stacked, stepped, values_of
from training_toys import Deck, furthest, make_network

from plait.balancing.pcgrad import PCGrad
from plait.training import fit
from plait.training.procedures.moml import Moml, common
from plait.training.procedures.plain import Plain


def outer_slope(network, names, batch, held, logits, rate):
    """Autograd through θ', row by row, and the min-norm point by a general solver."""
    values = values_of(network)
    logits = logits.clone().requires_grad_()
    preference = torch.tensor([network.tasks[n].preference for n in names], dtype=torch.float64)
    losses = stacked(losses_at(network, values, batch), names)
    moved = ahead(values, (logits.softmax(0) * preference * losses).sum(), rate)
    after = losses_at(network, moved, held.only(set(names)))
    rows = [
        torch.autograd.grad(after[n], logits, retain_graph=True)[0] for n in names if n in after
    ]
    units = torch.stack([row / row.norm() for row in rows]).numpy()
    count = len(units)
    found = minimize(
        lambda g: ((g @ units) ** 2).sum(),
        np.full(count, 1 / count),
        jac=lambda g: 2 * units @ (g @ units),
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda g: g.sum() - 1},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return torch.from_numpy(found.x @ units)


@pytest.mark.parametrize("pieces", [1, 3])
def test_the_outer_gradient_is_that_of_autograd_through_the_step(tasks, pieces):
    tasks = tasks.replace("real.1", preference=2.5)
    network, deck = make_network(tasks), Deck(tasks)
    held = Deck(tasks, missing=lambda _: ["counts.4"])
    held.batch = lambda step: Deck.batch(held, step + 3)
    method = Moml(lookahead=0.2)
    ground = ground_of(network, method, held, pieces)
    start = torch.linspace(-0.5, 0.7, len(tasks)).double()
    ground.memory.value.copy_(start)
    names = ground.memory.tasks
    wanted = outer_slope(network, names, deck.batch(0), held.batch(0), start, 0.2)
    stepped(ground, method, deck.batch(0))
    torch.testing.assert_close(ground.memory.adam_mean * 10, wanted, rtol=1e-4, atol=1e-6)


def test_then_comes_the_usual_step_with_the_new_weights(tasks):
    network, deck = make_network(tasks), Deck(tasks)
    method = Moml(rate=1e-9)
    ground = ground_of(network, method, deck)
    ground.memory.value.copy_(torch.linspace(-1, 1, len(tasks)))
    signals, found = stepped(ground, method, deck.batch(0), PCGrad())
    weights = ground.memory.value.softmax(0)
    told = dict(zip(ground.memory.tasks, weights.tolist(), strict=True))
    wanted = torch.tensor([told[name] for name in signals.tasks])
    torch.testing.assert_close(signals.preferences.float(), wanted)
    weighted = tasks
    for name, weight in told.items():
        weighted = weighted.replace(name, preference=weight)
    other = make_network(weighted)
    batch = Deck(weighted).batch(0)
    _, plain = stepped(ground_of(other, Plain()), Plain(), batch, PCGrad())
    assert furthest(plain, found) < 1e-6


def test_equal_rows_do_not_move_the_weights():
    """K's rows are constant where every task helps alike: the softmax's slope is zero."""
    assert not common(torch.zeros(3, 3, dtype=torch.float64)).any()
    apart = torch.tensor([[1.0, -1.0, 0.0], [-5.0, 5.0, 0.0]], dtype=torch.float64)
    assert common(apart).abs().max() < 1e-12  # two tasks that want the opposite


def test_a_task_absent_from_the_step_keeps_its_logit(tasks):
    network = make_network(tasks)
    deck = Deck(tasks, missing=lambda _: ["real.1"])
    method = Moml()
    ground = ground_of(network, method, Deck(tasks))
    stepped(ground, method, deck.batch(0))
    place = ground.memory.tasks.index("real.1")
    steps = ground.memory.adam_steps
    assert not steps[place]
    assert not ground.memory.value[place]
    assert steps.sum() == len(tasks) - 1


def test_a_step_that_is_repeated_moves_the_logits_once(tasks):
    """A NaN in one task: the step runs again without it, and its logit rests."""
    network, deck = make_network(tasks), Deck(tasks)
    broken = deck.batch(0)
    broken.task("real.1").target[0] = torch.nan

    class Once(Deck):
        def batch(self, step):
            return broken if step == 0 else Deck.batch(self, step)

    seen = []
    fit(
        network, Once(tasks), steps=1, procedure=Moml(), validation=deck,
        observers=[lambda problem, signals: seen.append((problem.ground.memory, signals))],
    )  # fmt: skip
    memory, signals = seen[0]
    assert signals.dropped == ("real.1",)
    steps = dict(zip(memory.tasks, memory.adam_steps.tolist(), strict=True))
    assert steps == {name: float(name != "real.1") for name in tasks.names}


def test_held_out_rows_are_asked_for(tasks):
    with pytest.raises(ValueError, match="moml learns from losses on held-out rows"):
        fit(make_network(tasks), Deck(tasks), steps=1, procedure=Moml())
    with pytest.raises(ValueError, match="lookahead and rate must be positive"):
        Moml(lookahead=0)
