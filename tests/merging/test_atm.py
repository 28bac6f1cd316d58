from __future__ import annotations

import numpy as np
import pytest
import torch
from merging_nets import ROWS, TASKS, net_bench, net_pool
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

from plait.merging.atm import Atm
from plait.merging.base import Have
from plait.merging.bench import shuffled
from plait.merging.task_arithmetic import TaskArithmetic
from plait.method import MethodError


def task_loss(bench, task, weights, rows):
    """A task's mean cross-entropy at weights that are no module's."""
    features = functional_call(bench.module, weights, bench._inputs[task][""][rows])
    return F.cross_entropy(bench._heads[task](features), bench._labels[task][rows])


def tensors(state):
    return {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in state.items()}


def test_a_round_of_one_full_step_is_gradient_descent_on_the_mean_loss():
    pool = net_pool()
    one = {"optimiser": "sgd", "rate": 0.4, "batch": ROWS, "scale": 0.5}
    found = Atm(rounds=12, **one).merge(pool, Have(bench=net_bench()))
    bench, weights = net_bench(), tensors(pool.base)
    steps = torch.optim.SGD(list(weights.values()), lr=0.5 * 0.4)
    losses = []
    for _ in range(12):
        steps.zero_grad()
        loss = sum(task_loss(bench, t, weights, slice(None)) for t in TASKS) / len(TASKS)
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    np.testing.assert_allclose(found.evidence["objective"], losses, rtol=1e-11)
    for name, tensor in weights.items():
        np.testing.assert_allclose(found.tensors[name], tensor.detach().numpy(), rtol=1e-11)


def literal(start, rounds, epochs, batch, rate, alpha):
    """The loop of the paper over state dicts, an Adam of its own for every task and round."""
    bench, here = net_bench(), {name: torch.from_numpy(v.copy()) for name, v in start.items()}
    for number in range(rounds):
        vectors = []
        for task in TASKS:
            weights = {name: value.clone().requires_grad_() for name, value in here.items()}
            adam = torch.optim.Adam(list(weights.values()), lr=rate)
            for epoch in range(number * epochs, (number + 1) * epochs):
                order = shuffled(0, task, epoch, ROWS)
                for i in range(0, ROWS, batch):
                    adam.zero_grad()
                    rows = torch.from_numpy(order[i : i + batch])
                    task_loss(bench, task, weights, rows).backward()
                    adam.step()
            vectors.append({name: weights[name].detach() - here[name] for name in here})
        here = {n: v + alpha / len(TASKS) * sum(one[n] for one in vectors) for n, v in here.items()}
    return here


@pytest.mark.parametrize("method", [None, {"task_arithmetic": {"scale": 0.4}}])
def test_rounds_are_those_of_the_papers_loop(method):
    pool = net_pool()
    start = pool.base if method is None else TaskArithmetic(scale=0.4).merge(pool).tensors
    settings = {"rounds": 3, "epochs": 2, "batch": 10, "rate": 0.02, "scale": 0.7}
    found = Atm(method=method, **settings).merge(pool, Have(bench=net_bench()))
    wanted = literal(start, 3, 2, 10, 0.02, 0.7)
    for name, value in wanted.items():
        assert np.abs(value.numpy() - start[name]).max() > 0.01
        np.testing.assert_allclose(found.tensors[name], value.numpy(), rtol=1e-9)


def test_no_rounds_are_the_start():
    pool = net_pool()
    base = Atm(rounds=0).merge(pool, Have(bench=net_bench()))
    assert base.evidence["kept"] == "the start"
    for name, value in pool.base.items():
        np.testing.assert_array_equal(base.tensors[name], value)


def test_the_round_of_the_lowest_validation_loss_is_kept():
    pool = net_pool()
    settings = {"optimiser": "sgd", "rate": 0.4, "batch": ROWS}
    third = Atm(rounds=3, **settings).merge(pool, Have(bench=net_bench())).tensors

    def far(state):
        return sum(float(np.square(state[name] - third[name]).sum()) for name in third)

    found = Atm(rounds=8, **settings).merge(pool, Have(bench=net_bench(), validation=far))
    assert found.evidence["kept"] == "round 3 of 8"
    assert len(found.evidence["validation"]) == 9
    for name, value in third.items():
        np.testing.assert_array_equal(found.tensors[name], value)
    rising = Have(bench=net_bench(), validation=lambda state: -far({**state, **pool.base}))
    assert Atm(rounds=2, **settings).merge(pool, rising).evidence["kept"] == "the start"


def test_a_rate_that_blows_up_keeps_the_last_finite_round():
    found = Atm(optimiser="sgd", rate=1e200, rounds=5).merge(net_pool(), Have(bench=net_bench()))
    assert found.evidence["objective"][-1] is None
    assert all(np.isfinite(value).all() for value in found.tensors.values())


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"rounds": -1}, "rounds must be at least 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"optimiser": "lion"}, "no optimiser 'lion'; valid: adam, sgd"),
    ],
)
def test_bad_settings_are_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        Atm(**bad)


@pytest.mark.parametrize("method", ["surgery", "emr"])
def test_a_start_of_more_than_one_network_is_refused_before_any_run(method):
    with pytest.raises(MethodError, match=f"atm goes on from one network; {method}"):
        Atm(method=method).merge(net_pool(), Have(bench=net_bench()))
