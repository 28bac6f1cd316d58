from __future__ import annotations

import copy
import itertools

import pytest
import torch
from adapter_nets import attached, bert, filled, model_of, net, pooled, states, texts, trunk_of
from torch import nn

from plait.adapting.editing import add_task, drop_task
from plait.adapting.subtuning import SubTuning, search
from plait.task import Task

BLOCKS = {"type": ["*layer.1"], "NR.AR": [], "a/b": ["*layer.0", "*layer.1"]}


def test_each_task_runs_with_its_own_blocks_and_the_frozen_rest():
    pytest.importorskip("transformers")
    adapted = bert(SubTuning(chosen=BLOCKS)).double().eval()
    plain = model_of(bert()).double().eval()
    value, task = texts(5, 3, 4, 2), [0, 1, 2, 2]
    found = states(adapted, value, task)
    start = "encoder.stems.text.model."
    for row, t in enumerate(task):
        own = copy.deepcopy(plain)
        for path, bank in trunk_of(adapted).banks.items():
            place = bank.place(t)
            layer = own.get_submodule(path.replace("%2E", ".").removeprefix(start))
            for name, parameter in layer.named_parameters() if place is not None else ():
                parameter.data += bank.get_parameter(name)[place].detach()
        ids, mask = (value[[row]] - 1).clamp(min=0), value[[row]] > 0
        wanted = pooled(own(input_ids=ids, attention_mask=mask.long())[0], mask)
        torch.testing.assert_close(found[[row]], wanted, rtol=0, atol=1e-10)


def test_a_task_that_chose_nothing_is_the_base_and_stores_nothing():
    pytest.importorskip("transformers")
    adapted, plain = bert(SubTuning(chosen=BLOCKS)).eval(), bert().eval()
    value = texts(4, 4)
    assert torch.equal(states(adapted, value, [1, 1]), states(plain, value, [1, 1]))
    stored = {
        name: sum(bank.stored(name) for bank in trunk_of(adapted).banks.values())
        for name in ("type", "NR.AR", "a/b")
    }
    block = sum(p.numel() for p in model_of(plain).encoder.layer[0].parameters())
    assert stored == {"type": block, "NR.AR": 0, "a/b": 2 * block}


def test_tasks_that_come_and_go_leave_what_the_others_chose():
    pytest.importorskip("transformers")
    adapted = bert(SubTuning(chosen=BLOCKS)).eval()
    value = texts(4, 4, 3)
    before = states(adapted, value, [2, 0, 1])
    add_task(adapted, Task(name="new"))
    assert torch.equal(states(adapted, value, [2, 0, 1]), before)
    drop_task(adapted, "type")
    assert torch.equal(states(adapted, value[[0, 2]], [1, 0]), before[[0, 2]])


def test_without_attention_every_layer_is_a_block():
    banks, _ = attached(SubTuning(), net())
    assert list(banks) == ["0", "2"]
    banks, _ = attached(SubTuning(sites=["2"]), net())
    assert [tuple(p.shape) for p in banks["2"].parameters()] == [(3, 3, 6), (3, 3)]


def test_with_every_layer_it_is_full_fine_tuning_of_each_task():
    base = net()
    plain = copy.deepcopy(base)
    banks, routing = attached(SubTuning(), base)
    filled(banks)
    x, task = torch.randn(5, 2, 5, dtype=torch.float64), torch.tensor([2, 0, 1, 0, 2])
    with routing.to(task):
        found = base(x)
    for row, t in enumerate(task):
        h = x[row]
        for n in (0, 2):
            weight, bias = (getattr(banks[str(n)], name)[t] for name in ("weight", "bias"))
            h = nn.functional.linear(h, plain[n].weight + weight, plain[n].bias + bias)
            h = h.tanh() if n == 0 else h
        torch.testing.assert_close(found[row], h, rtol=0, atol=1e-12)


def additive(gains):
    calls = []

    def score(subset):
        calls.append(subset)
        return sum(gains[name] for name in subset)

    return score, calls


@pytest.mark.parametrize("start", ["none", "all", "better"])
def test_where_gains_add_up_the_search_finds_the_best_subset(start):
    gains = {"a": 0.5, "b": -0.2, "c": 2.0, "d": -1.0, "e": 0.1}
    score, calls = additive(gains)
    found = search(list(gains), score, start=start)
    every = [s for k in range(6) for s in itertools.combinations(gains, k)]
    assert found.best == max(every, key=lambda s: sum(gains[n] for n in s)) == ("a", "c", "e")
    assert found.score == pytest.approx(2.6)
    assert len(calls) == len(set(calls))
    if start == "none":
        added = [
            set(two) - set(one)
            for (one, _), (two, _) in zip(found.rounds, found.rounds[1:], strict=False)
        ]
        assert added == [{"c"}, {"a"}, {"e"}, {"b"}]  # the last costs more than ε, and ends it


def test_the_search_goes_on_through_small_losses_only():
    gains = {"a": 1.0, "b": -0.05, "c": -0.5}
    score, _ = additive(gains)
    rounds = [subset for subset, _ in search(list(gains), score, epsilon=0.1).rounds]
    assert rounds == [(), ("a",), ("a", "b"), ("a", "b", "c")]
    rounds = [subset for subset, _ in search(list(gains), score, epsilon=0.01).rounds]
    assert rounds == [(), ("a",), ("a", "b")]


def trained(base, teacher, subset, steps=60):
    """How well the student learns the teacher when only these layers train."""
    base = copy.deepcopy(base)
    banks, routing = attached(SubTuning(sites=list(subset)), base) if subset else ({}, None)
    parameters = [p for bank in banks.values() for p in bank.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.05) if subset else None
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    wanted, task = teacher(x).detach(), torch.zeros(64).long()
    for _ in range(steps if subset else 0):
        optimizer.zero_grad()
        with routing.to(task):
            (base(x) - wanted).square().mean().backward()
        optimizer.step()
    if routing is None:
        return -(base(x) - wanted).square().mean().item()
    with routing.to(task):
        return -(base(x) - wanted).square().mean().item()


def test_the_search_takes_the_planted_layers_in_order():
    torch.manual_seed(0)
    base = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)))
    for number, layer in enumerate(base):  # a rank of two cannot be undone by another layer
        nn.init.orthogonal_(layer.weight)
        if number == 1:
            layer.weight.data[2:] = 0
    base.requires_grad_(False)
    teacher = copy.deepcopy(base)
    teacher[1].weight.data = torch.nn.init.orthogonal_(torch.empty(4, 4))
    found = search(["0", "1", "2"], lambda subset: trained(base, teacher, subset), epsilon=0.0)
    assert found.rounds[1][0] == ("1",)
    assert found.rounds[1][1] > found.rounds[0][1] / 50


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no task 'tpye'; did you mean 'type'"):
        attached(SubTuning(chosen={"tpye": ["0"]}), net())
    with pytest.raises(ValueError, match="chose 1, which is none of the blocks 0, 2"):
        attached(SubTuning(chosen={"type": ["1"]}), net())
    with pytest.raises(ValueError, match="no module matches '7'"):
        attached(SubTuning(chosen={"type": ["7"]}), net())
    with pytest.raises(ValueError, match="no linear layer"):
        attached(SubTuning(sites=["1"]), net())
    with pytest.raises(ValueError, match="no start 'al'"):
        search(["a"], len, start="al")
    with pytest.raises(ValueError, match="epsilon must not be negative"):
        search(["a"], len, epsilon=-1.0)
