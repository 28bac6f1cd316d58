from __future__ import annotations

import pytest
import torch
from written_out import batch_for, expert, network, size

from plait.batch import Records
from plait.losses import LOSSES
from plait.sharing import Esmm, conditional
from plait.sharing.esmm import Product
from plait.task import Task, TaskSet
from plait.training import RowwiseAdamW

TASKS = TaskSet(
    [
        Task(name="buy", after="click"),
        Task(name="late", kind="real"),
        Task(name="click"),
        Task(name="again", after="buy"),
    ]
)


def tower(net, task, x):
    for stack in net.trunk.towers.stacks:
        if task in stack.layers[0].names:
            return expert(stack, stack.layers[0].names.index(task), x)
    raise AssertionError(task)


def step(net, task, x):
    """σ(c_t) of one row."""
    bank, place = net.heads.banks["binary"], TASKS.groups["binary"].position[task]
    return torch.sigmoid(bank.weight[place, 0] @ tower(net, task, x) + bank.bias[place, 0])


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("missing", [0.0, 0.6])
def test_probabilities_are_the_papers_products(depth, missing):
    net, batch = network(Esmm(width=5, depth=depth), TASKS), batch_for(TASKS, missing=missing)
    found = net.predict(batch.parts, batch.labels)["binary"]
    labels, names = batch.labels["binary"], TASKS.groups["binary"].tasks
    for n, (place, row) in enumerate(zip(labels.task, labels.rows, strict=True)):
        x, expected = batch.parts["table"]["numeric"][row], 1.0
        for task in {"click": ["click"], "buy": ["click", "buy"]}.get(
            names[place], ["click", "buy", "again"]
        ):
            expected = expected * step(net, task, x)
        torch.testing.assert_close(found[n], expected.detach(), rtol=1e-12, atol=0)


def test_the_step_alone_can_be_asked_for():
    net, batch = network(Esmm(width=5), TASKS), batch_for(TASKS, missing=0.0)
    found = conditional(net, batch.parts, batch.labels)
    labels, names = batch.labels["binary"], TASKS.groups["binary"].tasks
    for n, (place, row) in enumerate(zip(labels.task, labels.rows, strict=True)):
        expected = step(net, names[place], batch.parts["table"]["numeric"][row])
        torch.testing.assert_close(found["binary"][n], expected.detach(), rtol=1e-12, atol=0)
    assert set(found) == {"binary"}


def test_a_product_is_never_more_probable_than_what_comes_before():
    net, batch = network(Esmm(), TASKS), batch_for(TASKS, missing=0.0, rows=40)
    found = net.predict(batch.parts, batch.labels)["binary"].view(3, 40)
    buy, click, again = found
    assert (buy < click).all()
    assert (again < buy).all()


def test_the_gradient_on_a_step_is_the_closed_form():
    a, c = torch.randn(2, 50, dtype=torch.float64).unbind(0)
    z = (torch.arange(50) % 3 == 0).double()
    c.requires_grad_()
    chain = Product(TASKS, {name: TASKS.before(name) for name in TASKS.names})
    raw = chain.outputs(torch.stack([c, a], 1))
    LOSSES["bce"].per_row(raw.unsqueeze(1), z).sum().backward()
    p, q = torch.sigmoid(c.detach()), torch.sigmoid(c.detach()) * torch.sigmoid(a)
    torch.testing.assert_close(c.grad, (1 - p) * (-z + (1 - z) * q / (1 - q)))


@pytest.mark.parametrize("extreme", [40.0, 800.0, float("inf")])
def test_extreme_log_odds_stay_finite(extreme):
    chain = Product(TASKS, {name: TASKS.before(name) for name in TASKS.names})
    c = torch.tensor([0.3, -700.0, 30.0], requires_grad=True)
    raw = chain.outputs(torch.stack([c, torch.full((3,), extreme)], 1))
    torch.testing.assert_close(raw[:1], c[:1])  # a certain click: the purchase alone
    LOSSES["bce"].per_row(raw.unsqueeze(1), torch.tensor([1.0, 0.0, 0.0])).sum().backward()
    assert raw.isfinite().all()
    assert c.grad.isfinite().all()


def test_a_step_trains_the_heads_before_it():
    net, batch = network(Esmm(width=6), TASKS), batch_for(TASKS, rows=20)
    reach = net.reach()
    assert reach["heads.banks.binary.weight"] == {"click", "buy", "again"}
    own = batch.only({"buy"})
    net(own.parts, own.labels).raw["binary"].sum().backward()
    used = net.heads.banks["binary"].weight.grad.abs().flatten(1).sum(1) > 0
    assert used.tolist() == [True, True, False]  # buy, click, again
    shared = {id(p) for p in net.shared_parameters()}
    assert id(net.heads.banks["binary"].weight) in shared
    assert id(net.heads.banks["real"].weight) not in shared


def test_heads_rest_while_no_task_that_trains_them_is_there():
    net, batch = network(Esmm(width=6), TASKS), batch_for(TASKS, rows=20)
    optimizer = RowwiseAdamW(net.parameters(), lr=0.1, weight_decay=0.1)
    bank = net.heads.banks["binary"].weight
    for present, moved in (("buy", [True, True, False]), ("click", [False, True, False])):
        own, before = batch.only({present}), bank.detach().clone()
        optimizer.zero_grad()
        net(own.parts, own.labels).raw["binary"].square().sum().backward()
        optimizer.step(present=[present])
        assert (bank != before).flatten(1).any(1).tolist() == moved


def test_priors_start_the_steps_at_conditional_rates():
    rates = {"click": 0.2, "buy": 0.05, "again": 0.01}
    priors = {name: torch.tensor([1 - rate, rate]) for name, rate in rates.items()}
    chain = Product(TASKS, {name: TASKS.before(name) for name in TASKS.names})
    found = chain.priors(priors)
    assert float(found["click"][1]) == pytest.approx(0.2)
    assert float(found["buy"][1]) == pytest.approx(0.25)
    assert float(found["again"][1]) == pytest.approx(0.2)


def test_purchases_are_learnt_without_the_bias_of_clicks():
    """Where clicks depend on x, the step is that of all rows, not of those that click."""
    generator = torch.Generator().manual_seed(0)
    tasks = TaskSet([Task(name="click"), Task(name="buy", after="click")])
    x = torch.randn(4000, 4, generator=generator, dtype=torch.float64)
    p_click, p_buy = torch.sigmoid(2 * x[:, 0]), torch.sigmoid(x[:, 1] - x[:, 0])
    click = (torch.rand(4000, generator=generator) < p_click).double()
    buy = click * (torch.rand(4000, generator=generator) < p_buy).double()
    net = network(Esmm(depth=0), tasks)
    rows = torch.arange(4000).repeat(2)
    asked = {"binary": Records(torch.arange(2).repeat_interleave(4000), rows)}
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        raw = net({"table": {"numeric": x}}, asked).raw["binary"]
        value = LOSSES["bce"].per_row(raw, torch.cat([click, buy])).mean()
        value.backward()
        return value

    optimizer.step(loss)
    bank = net.heads.banks["binary"]
    expected = torch.tensor([[2.0, 0, 0, 0], [-1.0, 1.0, 0, 0]], dtype=torch.float64)
    assert (bank.weight[:, 0] - expected).abs().max() < 0.25


def test_parameters_are_the_formulas_and_one_task_is_one_tower():
    alone = TaskSet([Task(name="only", kind="real")])
    assert size(network(Esmm(width=5, depth=2), alone)) == 5 * 5 + 6 * 5
    assert size(network(Esmm(width=5, depth=2), TASKS)) == 4 * (5 * 5 + 6 * 5)
    assert size(network(Esmm(depth=0), TASKS)) == 0


def test_tasks_without_a_chain_are_refused():
    with pytest.raises(
        ValueError, match=r"no task comes after another; say which: \{b: \{after: a"
    ):
        network(Esmm(), TaskSet([Task(name="a"), Task(name="b")]))
