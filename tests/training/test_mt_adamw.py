from __future__ import annotations

from collections import Counter

import pytest
import torch
from stepping import ground_of, stepped
from torch import nn
from training_toys import Deck, make_network, slices

from plait.balancing.famo import Famo
from plait.networks.base import TaskBank
from plait.task import TaskSet
from plait.testing.toys import toy_tasks
from plait.training import EventLog, RowwiseAdamW, fit
from plait.training.balanced_adamw import TaskBalancedAdamW
from plait.training.procedures.base import Problem
from plait.training.procedures.mt_adamw import MtAdamw


def test_the_moments_are_those_of_the_paper():
    """Here β weights the old moment: m ← (1 − β₁')m + (β₁'/s)g with β₁' = 0.1."""
    shares, rate = {"a": 0.2, "b": 0.8}, 0.01
    value = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = TaskBalancedAdamW([value], shares, lr=rate, weight_decay=0.1)
    theta, m, n = value.detach().clone(), torch.zeros(2).double(), torch.zeros(2).double()
    draw = torch.Generator().manual_seed(0)
    for t, task in enumerate("abbabbba", start=1):
        g = torch.randn(2, generator=draw, dtype=torch.float64)
        value.grad = g.clone()
        optimizer.step(present=(task,))
        m = (1 - 0.1) * m + 0.1 / shares[task] * g
        n = (1 - 0.001) * n + 0.001 / shares[task] * g**2
        theta = theta * (1 - rate * 0.1)
        theta = theta - rate * (m / (1 - 0.9**t)) / ((n / (1 - 0.999**t)).sqrt() + 1e-8)
        torch.testing.assert_close(value.detach(), theta, rtol=1e-9, atol=1e-12)


def test_with_one_task_it_is_adamw():
    values = [nn.Parameter(torch.randn(3, 2, generator=torch.Generator().manual_seed(1)).double())
              for _ in range(2)]  # fmt: skip
    mine = TaskBalancedAdamW([values[0]], {"a": 1.0}, lr=0.1)
    other = RowwiseAdamW([values[1]], lr=0.1)
    for seed in range(5):
        gradient = torch.randn(3, 2, generator=torch.Generator().manual_seed(seed)).double()
        for value, optimizer in zip(values, (mine, other), strict=True):
            value.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(values[0], values[1], rtol=1e-9, atol=1e-12)


def test_the_mean_of_the_moments_does_not_depend_on_the_shares():
    """E[m] moves towards Σ_k ω_k ĝ_k whatever s is: the mean over what may be drawn is exact."""
    units = {"a": torch.tensor([3.0, 1.0]).double(), "b": torch.tensor([0.5, -2.0]).double()}
    means = []
    for share in (0.1, 0.5, 0.7):
        shares = {"a": share, "b": 1 - share}
        moments = torch.zeros(2, 2).double()
        for task, chance in shares.items():
            value = nn.Parameter(torch.zeros(2).double())
            optimizer = TaskBalancedAdamW([value], shares)
            for drawn in ("b", task):
                value.grad = units[drawn].clone()
                optimizer.step(present=(drawn,))
            before = torch.stack([units["b"] * 0.1, units["b"].square() * 0.001]) / shares["b"]
            state = optimizer.state[value]
            now = torch.stack([state["exp_avg"], state["exp_avg_sq"]])
            moments += chance * (now - torch.tensor([[0.9], [0.999]], dtype=torch.float64) * before)
        means.append(moments)
    wanted = torch.stack([sum(units.values()) * 0.1, sum(u**2 for u in units.values()) * 0.001])
    for mean in means:
        torch.testing.assert_close(mean, wanted, rtol=1e-9, atol=1e-12)


def test_heads_that_were_not_drawn_rest():
    bank = TaskBank(("a", "b"))
    weight = bank.add("weight", 3)
    optimizer = TaskBalancedAdamW([weight], {"a": 0.5, "b": 0.5}, lr=0.1, weight_decay=0.5)
    for task in "abb":
        before = weight.detach().clone()
        weight.grad = torch.ones(2, 3)
        optimizer.step(present=(task,))
        row = "ab".index(task)
        assert torch.equal(weight[1 - row], before[1 - row])
        assert (weight[row] != before[row]).all()
    with pytest.raises(ValueError, match="a step of one task"):
        optimizer.step(present=("a", "b"))


def test_the_filled_gradient_has_the_length_of_the_weight(tasks):
    network, batch = make_network(tasks), Deck(tasks).batch(0)
    method = MtAdamw(weights=dict.fromkeys(tasks.names, 3.0))
    drawn = set()
    for step in range(12):
        signals, found = stepped(ground_of(network, method), method, batch, step=step)
        drawn |= set(signals.tasks)
        norm = torch.stack([g.norm() for g in found.values()]).norm()
        assert float(norm) == pytest.approx(3.0, rel=1e-9)
    assert drawn == set(tasks.names)


def test_scaling_a_loss_leaves_the_run_as_it_is(tasks):
    runs = []
    for factor in (1.0, 64.0):
        scaled = tasks.replace("real.1", preference=factor)
        network = make_network(scaled)
        fit(network, Deck(scaled), steps=20, procedure=MtAdamw())
        runs.append(slices(network))
    for name, value in runs[0].items():
        torch.testing.assert_close(runs[1][name], value, rtol=1e-9, atol=1e-12)


def test_tasks_are_drawn_by_their_shares():
    tasks = toy_tasks(("binary", "real"))
    network, batch = make_network(tasks), Deck(tasks).batch(0)
    method = MtAdamw(shares={"binary.0": 1, "real.1": 3})
    ground = ground_of(network, method)
    seen = Counter(method.drawn(Problem(ground, batch, step)) for step in range(2000))
    assert seen["real.1"] / 2000 == pytest.approx(0.75, abs=0.03)


def test_absent_tasks_are_not_drawn_and_the_log_tells_whose_loss_it_was(tasks: TaskSet):
    log = EventLog(every=4)
    deck = Deck(tasks, missing=lambda _: ["real.1"])
    told: list[tuple[str, float]] = []

    def keep(problem: Problem, signals) -> None:
        told.append((signals.tasks[0], float(signals.losses[0])))

    fit(make_network(tasks), deck, steps=4, procedure=MtAdamw(), observers=[log, keep])
    assert "real.1" not in dict(told)
    (event,) = [e for e in log.events if e["event"] == "step"]
    wanted = {name: [v for n, v in told if n == name] for name in dict(told)}
    assert event["losses"] == {
        n: pytest.approx(sum(v) / len(v), rel=1e-4) for n, v in wanted.items()
    }


def test_bad_settings_are_refused(tasks):
    with pytest.raises(ValueError, match="shares must be positive"):
        MtAdamw(shares={"a": 0})
    with pytest.raises(ValueError, match=r"no share for binary\.0"):
        fit(make_network(tasks), Deck(tasks), steps=1, procedure=MtAdamw(shares={"real.1": 1}))
    with pytest.raises(ValueError, match="famo compares tasks"):
        fit(make_network(tasks), Deck(tasks), Famo(), steps=1, procedure=MtAdamw())
