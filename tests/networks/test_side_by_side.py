from __future__ import annotations

import pytest
import torch

from plait.batch import Input, Records
from plait.networks import task_slices
from plait.networks.side_by_side import build_side_by_side, stackable
from plait.task import Task, TaskSet
from plait.testing.counting import operations

INPUTS = {
    found.key: found
    for found in (
        Input(key="numeric", type="numeric", shape=(3,)),
        Input(key="categorical", type="categorical", shape=(2,), sizes=(4, 60)),
        Input(key="text.note", type="text", shape=(-1,), sizes=(30,)),
        Input(key="image.scan", type="image", shape=(1, 6, 8)),
    )
}
TASKS = TaskSet(
    [
        Task(name="type"),
        Task(name="mass", kind="real", center=2.0, scale=3.0),
        Task(name="NR.AR"),
        Task(name="colour", kind="classes", classes=("r", "g", "b")),
    ]
)
SPEC = {"trunk": {"mlp": {"width": 12, "norm": "layer"}}, "text": {"bag": {"width": 5}}}


PADDING = torch.tensor([1, 1, 1, 1, 0, 0])


def part(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "numeric": torch.randn(rows, 3, generator=generator),
        "categorical": torch.randint(0, 4, (rows, 2), generator=generator),
        "text.note": torch.randint(1, 30, (rows, 6), generator=generator) * PADDING,
        "image.scan": torch.randn(rows, 1, 6, 8, generator=generator),
    }


def perturbed(net):
    """The network as if it had been trained: nothing is at its start."""
    generator = torch.Generator().manual_seed(5)
    for parameter in net.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.data.add_(noise, alpha=0.1)
    return net


def asked_of(tasks, chosen):
    """Records of (task name, row) pairs."""
    found = {}
    for key, group in tasks.groups.items():
        mine = sorted((group.position[n], r) for n, r in chosen if n in group.position)
        if mine:
            task, rows = torch.tensor(mine).unbind(1)
            found[key] = Records(task, rows)
    return found


PAIRS = [("type", 0), ("type", 3), ("mass", 3), ("NR.AR", 1), ("NR.AR", 5), ("NR.AR", 6),
         ("colour", 2), ("mass", 6)]  # fmt: skip
PARTS = {
    "a": part(4),
    "b": {"numeric": part(3, 1)["numeric"], "text.note": part(3, 1)["text.note"]},
}


def test_equals_the_networks_run_one_by_one():
    net = perturbed(build_side_by_side(inputs=INPUTS, tasks=TASKS, encoder=SPEC, seed=0))
    asked = asked_of(TASKS, PAIRS)
    outputs = net(PARTS, asked)
    weights = {key: torch.randn_like(raw) for key, raw in outputs.raw.items()}
    sum((outputs.raw[key] * weights[key]).sum() for key in weights).backward()
    for name in TASKS.names:
        alone = net.alone(name)
        key = TASKS[name].group
        mine = asked_of(alone.tasks, [pair for pair in PAIRS if pair[0] == name])
        which = asked[key].task == TASKS.groups[key].position[name]
        raw = alone(PARTS, mine).raw[key]
        torch.testing.assert_close(raw, outputs.raw[key][which], rtol=0, atol=1e-6)
        (raw * weights[key][which]).sum().backward()
        stacked = dict(net.trunk.bank.named_parameters())
        place = TASKS.position[name]
        for path, parameter in alone.trunk.named_parameters():
            torch.testing.assert_close(parameter.grad, stacked[path].grad[place], rtol=0, atol=1e-6)


def test_alone_predicts_the_same_in_the_users_units():
    net = perturbed(build_side_by_side(inputs=INPUTS, tasks=TASKS, encoder=SPEC, seed=0)).double()
    rows = [("mass", row) for row in range(7)]
    alone = net.alone("mass")
    assert alone.tasks.names == ("mass",)
    torch.testing.assert_close(
        alone.predict(PARTS, asked_of(alone.tasks, rows))["real"],
        net.predict(PARTS, asked_of(TASKS, rows))["real"],
        rtol=0, atol=1e-12,
    )  # fmt: skip
    with pytest.raises(KeyError, match="did you mean 'mass'"):
        net.alone("mas")


def test_every_parameter_is_sliced_and_nothing_is_shared():
    net = build_side_by_side(inputs=INPUTS, tasks=TASKS, encoder=SPEC, seed=0)
    assert all(task_slices(p) for p in net.parameters())
    assert all(len(p) == len(task_slices(p)) for p in net.parameters())
    assert net.shared_parameters() == net.last_shared() == []


def test_a_tasks_start_is_its_own():
    few = TaskSet([TASKS["NR.AR"], TASKS["type"]])
    ours = build_side_by_side(inputs=INPUTS, tasks=few, encoder=SPEC, seed=0)
    theirs = build_side_by_side(inputs=INPUTS, tasks=TASKS, encoder=SPEC, seed=0)
    stacked = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        names = task_slices(stacked[name])
        for place, task in enumerate(task_slices(parameter)):
            assert torch.equal(parameter[place], stacked[name][names.index(task)])
    first = dict(ours.trunk.named_parameters())["bank.encoder.trunk.layers.0.weight"]
    assert not torch.equal(first[0], first[1])


def test_absent_tasks_get_no_gradient():
    net = build_side_by_side(inputs=INPUTS, tasks=TASKS, encoder=SPEC, seed=0)
    net(PARTS, asked_of(TASKS, [("mass", 1), ("type", 2)])).features["real"].values.sum().backward()
    for parameter in net.trunk.parameters():
        if parameter.grad is not None:
            assert (parameter.grad[[0, 2, 3]] == 0).all()


def test_many_rows_run_in_chunks(monkeypatch):
    from plait.networks import side_by_side

    net = build_side_by_side(inputs=INPUTS, tasks=TASKS, encoder=SPEC, seed=0)
    asked = asked_of(TASKS, PAIRS)
    whole = net(PARTS, asked).raw
    monkeypatch.setattr(side_by_side, "ROWS", 3)
    for key, raw in net(PARTS, asked).raw.items():
        torch.testing.assert_close(raw, whole[key])


def test_dropout_differs_between_tasks():
    spec = {"trunk": {"mlp": {"width": 64, "depth": 1, "dropout": 0.5}}}
    inputs = {"numeric": INPUTS["numeric"]}
    net = build_side_by_side(inputs=inputs, tasks=TASKS, encoder=spec, seed=0)
    torch.manual_seed(0)
    found = net({"a": {"numeric": torch.ones(1, 3)}}, asked_of(TASKS, [("type", 0), ("NR.AR", 0)]))
    first, second = found.features["binary"].values == 0
    assert (first != second).any()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, True),
        ({"text": "bag"}, True),
        ({"text": {"transformer": {"config": {}}}}, False),
        ({"module": "a:B"}, False),
        ({"image": {"module": "a:B"}}, False),
    ],
)
def test_stackable(spec, expected):
    assert stackable(spec, INPUTS) is expected
    if not expected:
        with pytest.raises(ValueError, match="side by side"):
            build_side_by_side(inputs=INPUTS, tasks=TASKS, encoder=spec, seed=0)


def test_costs_far_less_than_a_loop():
    tasks = TaskSet(Task(name=f"exam[{i}]", kind="real") for i in range(139))
    inputs = {"numeric": Input(key="numeric", type="numeric", shape=(28,))}
    net = build_side_by_side(
        inputs=inputs, tasks=tasks, encoder={"trunk": {"mlp": {"width": 32}}}, seed=0
    )
    alone = net.alone("exam[0]")
    x = torch.randn(139 * 8, 28)
    asked = {"real": Records(torch.arange(139).repeat_interleave(8), torch.arange(139 * 8))}
    one = {"real": Records(torch.zeros(8).long(), torch.arange(8))}

    def together():
        net({"a": {"numeric": x}}, asked).raw["real"].sum().backward()

    def loop():
        for _ in range(139):
            alone({"a": {"numeric": x[:8]}}, one).raw["real"].sum().backward()

    assert operations(together) < 0.02 * operations(loop)
