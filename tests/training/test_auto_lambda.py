from __future__ import annotations

import pytest
import torch
from stepping import ahead, ground_of, losses_at, stacked, stepped, values_of
from training_toys import Deck, make_network

from plait.training.procedures.auto_lambda import AutoLambda


def held_out_loss(network, names, batch, held, primary, weights, rate):
    """Σ_primary L^val after the step ahead, a function of the weights."""
    values = values_of(network)
    losses = stacked(losses_at(network, values, batch), names)
    moved = ahead(values, (weights * losses).sum(), rate)
    return sum(losses_at(network, moved, held.only(set(primary))).values())


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("primary", [None, ("real.1", "classes.3")])
def test_the_slope_is_the_derivative_of_the_held_out_loss(tasks, pieces, primary):
    tasks = tasks.replace("counts.4", preference=0.3)
    network, deck = make_network(tasks), Deck(tasks)
    method = AutoLambda(primary=primary, lookahead=0.3)
    ground = ground_of(network, method, Deck(tasks, missing=lambda _: ["binary.2"]), pieces)
    names = ground.memory.tasks
    held = ground.validation.batch(0)
    preference = torch.tensor([tasks[n].preference for n in names], dtype=torch.float64)

    def value(weights):
        chosen = primary or names
        return held_out_loss(network, names, deck.batch(0), held, chosen, weights * preference, 0.3)

    weights = torch.full((len(names),), 0.1, dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(value(weights), weights)
    stepped(ground, method, deck.batch(0))
    found = ground.memory.adam_mean * 10
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)


def test_the_slope_is_the_authors_difference_of_losses(tasks):
    """−η(L(θ+εu) − L(θ−εu))/(2ε) with ε = 0.01/‖u‖, θ' and u by hand."""
    network, deck = make_network(tasks), Deck(tasks)
    method = AutoLambda(lookahead=0.3)
    ground = ground_of(network, method, deck)
    names, batch = ground.memory.tasks, deck.batch(0)
    values = values_of(network)
    losses = stacked(losses_at(network, values, batch), names)
    there = {
        n: v.detach().clone().requires_grad_()
        for n, v in ahead(values, 0.1 * losses.sum(), 0.3).items()
    }
    after = sum(losses_at(network, there, batch).values())
    u = dict(zip(there, torch.autograd.grad(after, list(there.values())), strict=True))
    epsilon = 0.01 / torch.stack([part.norm() for part in u.values()]).norm()

    def at(sign):
        moved = {n: v + sign * epsilon * u[n] for n, v in values.items()}
        return stacked(losses_at(network, moved, batch), names)

    wanted = -0.3 * (at(1) - at(-1)) / (2 * epsilon)
    stepped(ground, method, batch)
    torch.testing.assert_close(ground.memory.adam_mean * 10, wanted.detach(), rtol=1e-9, atol=1e-12)


def test_weights_start_where_they_are_told_and_multiply_the_losses(tasks):
    network, deck = make_network(tasks), Deck(tasks)
    method = AutoLambda(start=0.4, rate=1e-9)
    signals, _ = stepped(ground_of(network, method, deck), method, deck.batch(0))
    torch.testing.assert_close(
        signals.weights.double(), torch.full((5,), 0.4, dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_without_a_primary_label_nothing_moves(tasks):
    network, deck = make_network(tasks), Deck(tasks)
    method = AutoLambda(primary=("real.1",))
    ground = ground_of(network, method, Deck(tasks, missing=lambda _: ["real.1"]))
    stepped(ground, method, deck.batch(0))
    assert not ground.memory.value.any()


def test_an_unknown_primary_task_is_refused(tasks):
    with pytest.raises(ValueError, match=r"do not exist: \['click'\]"):
        AutoLambda(primary=("click",)).memory(make_network(tasks))
    with pytest.raises(ValueError, match="names no task"):
        AutoLambda(primary=())
