from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from written_out import network, size, some_tasks

from plait.batch import Input, Records
from plait.networks import build_network
from plait.sharing import Hard, TaskLevelMoe
from plait.sharing.task_level_moe import Copies
from plait.testing.toys import toy_batch

TASKS = some_tasks(3)
MLP = {"trunk": {"mlp": {"width": 6, "depth": 2}}}
TINY = {
    "model_type": "bert", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32,
}  # fmt: skip


def on_text(sharing, tasks=TASKS):
    text = Input(key="text.review", type="text", shape=(-1,), sizes=(41,))
    bert = {"transformer": {"config": TINY, "frozen": False}}
    encoder = {"text": bert, "trunk": {"mlp": {"depth": 0}}}
    return build_network(
        inputs={"text.review": text}, tasks=tasks, encoder=encoder, sharing=sharing, seed=0
    )


def texts(rows=6):
    generator = torch.Generator().manual_seed(0)
    found = torch.randint(1, 41, (rows, 9), generator=generator)
    found[1, 5:] = 0
    return {"a": {"text.review": found}}


def everything(tasks, rows):
    return {
        key: Records(
            torch.arange(len(group.tasks)).repeat_interleave(rows),
            torch.arange(rows).repeat(len(group.tasks)),
        )
        for key, group in tasks.groups.items()
    }


def by_name(tasks, raw, rows):
    found = {}
    for key, group in tasks.groups.items():
        found |= dict(zip(group.tasks, raw[key].view(len(group.tasks), rows, -1), strict=True))
    return found


def routes(trunk):
    """The most probable copy of each task at each block, as the paper writes the router."""
    found = []
    for router in trunk.routers:
        bank, row = router.bank, []
        for vector in trunk.vectors.vector:
            h = torch.nn.functional.gelu(bank.first[0] @ vector + bank.first_bias[0])
            row.append((bank.second[0] @ h + bank.second_bias[0]).tolist())
        found.append(row)
    return found


def copies_of(net):
    return [module for module in net.modules() if isinstance(module, Copies)]


@pytest.fixture
def apart():
    """A network on numbers whose copies differ."""
    net = network(TaskLevelMoe(experts=3, noise=0.5, size=8, hidden=5), TASKS, encoder=MLP)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        parameters = [net.trunk.vectors.vector, *net.trunk.routers.parameters()]
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


def test_evaluation_takes_the_most_probable_copy(apart):
    net, batch = apart.eval(), toy_batch(TASKS, rows=5, missing=0.3, dtype=torch.float64)
    taken = [[max(range(3), key=row.__getitem__) for row in block] for block in routes(net.trunk)]
    assert len({tuple(block[t] for block in taken) for t in range(3)}) > 1
    features = net(batch.parts, batch.labels).features
    for key, labels in batch.labels.items():
        for n, (place, row) in enumerate(zip(labels.task, labels.rows, strict=True)):
            t = TASKS.position[TASKS.groups[key].tasks[place]]
            h = batch.parts["table"]["numeric"][row]
            for block, copies in zip(taken, copies_of(net), strict=True):
                layer = copies.blocks[block[t]]
                h = torch.relu(layer.weight @ h + layer.bias)
            torch.testing.assert_close(features[key].records[n], h, rtol=0, atol=1e-12)


def test_training_draws_one_route_for_each_task_and_softmax_trains_the_router(apart):
    net, batch = apart.train(), toy_batch(TASKS, rows=40, missing=0.0, dtype=torch.float64)
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        now = net.trunk.begin(torch.arange(3))[0]
        torch.testing.assert_close(now.sum(1), torch.ones(3, dtype=torch.float64))
        assert torch.isclose(now.max(1).values, torch.ones(3, dtype=torch.float64)).all()
        seen.add(tuple(now.argmax(1).tolist()))
    assert len(seen) > 3
    raw = net(batch.parts, batch.labels).raw
    sum(each.square().sum() for each in raw.values()).backward()
    assert net.trunk.vectors.vector.grad.abs().sum(1).all()


def test_the_share_of_draws_is_the_softmax_of_the_logits(apart):
    net, counts = apart.train(), torch.zeros(3, 3)
    torch.manual_seed(0)
    for _ in range(400):
        counts += net.trunk.begin(torch.arange(3))[1].detach().round().float()
    expected = torch.tensor(routes(net.trunk)[1]).softmax(1)
    assert (counts / 400 - expected).abs().max() < 0.08


def test_the_temperature_falls_with_the_step(apart):
    net = network(TaskLevelMoe(route="softmax", size=8, hidden=5), TASKS, encoder=MLP)
    logits = torch.tensor(routes(net.trunk)[0], dtype=torch.float64)
    for step, warmth in ((0, 2.0), (1000, 2 * math.exp(-0.3)), (10**6, 0.1)):
        net.advance(step)
        found = net.trunk.begin(torch.arange(3))[0]
        torch.testing.assert_close(found, (logits / warmth).softmax(1), rtol=1e-5, atol=1e-7)
    twin = network(TaskLevelMoe(route="softmax", size=8, hidden=5), TASKS, encoder=MLP)
    twin.load_state_dict(net.state_dict())
    assert int(twin.trunk.step) == 10**6


def test_before_training_every_route_is_the_encoder():
    rows = 6
    ours, plain = on_text(TaskLevelMoe(experts=3)), on_text(Hard())
    ours.heads.load_state_dict(plain.heads.state_dict())
    ours.eval()
    plain.eval()
    asked = everything(TASKS, rows)
    one, two = (by_name(TASKS, net(texts(rows), asked).raw, rows) for net in (ours, plain))
    for name in TASKS.names:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-5)


def test_serving_a_task_runs_only_its_copies():
    net = on_text(TaskLevelMoe(experts=3, noise=0.02)).eval()
    ran = []
    for copies in copies_of(net):
        for number, block in enumerate(copies.blocks):
            block.register_forward_hook(lambda *_, number=number: ran.append(number))
    rows = torch.arange(6)
    for t, name in enumerate(TASKS.names):
        group = TASKS.groups[TASKS[name].group]
        asked = {group.key: Records(torch.full_like(rows, group.position[name]), rows)}
        ran.clear()
        net(texts(), asked)
        assert ran == [max(range(3), key=block[t].__getitem__) for block in routes(net.trunk)]


def test_tasks_served_together_get_what_each_gets_alone():
    net = on_text(TaskLevelMoe(experts=3, noise=0.05), some_tasks(5)).eval()
    tasks, parts = net.tasks, texts()
    whole = by_name(tasks, net(parts, everything(tasks, 6)).raw, 6)
    for name in tasks.names:
        group = tasks.groups[tasks[name].group]
        rows = torch.arange(6)
        asked = {group.key: Records(torch.full_like(rows, group.position[name]), rows)}
        torch.testing.assert_close(net(parts, asked).raw[group.key], whole[name])


def test_one_copy_is_the_plain_encoder():
    sharing = TaskLevelMoe(experts=1, noise=0, size=4, hidden=3)
    ours = network(sharing, TASKS, encoder=MLP)
    plain = network(Hard(), TASKS, encoder=MLP)
    batch = toy_batch(TASKS, dtype=torch.float64)
    one, two = (net(batch.parts, batch.labels).raw for net in (ours, plain))
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_parameters_are_the_formulas(count):
    tasks = some_tasks(count)
    net = network(TaskLevelMoe(experts=3, size=8, hidden=5), tasks, encoder=MLP)
    assert size(net) == 3 * (5 * 6 + 7 * 6) + 2 * (9 * 5 + 6 * 3) + count * 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts": 0}, "experts must be at least 1"),
        ({"route": "hard"}, "route must be gumbel or softmax"),
        (
            {"sites": ["trunk.layerz.0"]},
            "no module matches 'trunk.layerz.0'; nearest: trunk.layers",
        ),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        network(TaskLevelMoe(**settings), TASKS, encoder=MLP)


def test_an_encoder_without_a_block_is_refused():
    with pytest.raises(ValueError, match="no block for experts to stand in; name sites"):
        network(TaskLevelMoe(), TASKS)


def test_a_network_can_be_copied_after_a_step(apart):
    batch = toy_batch(TASKS, dtype=torch.float64)
    raw = apart.train()(batch.parts, batch.labels).raw
    sum(each.sum() for each in raw.values()).backward()
    one, two = apart.eval(), deepcopy(apart).eval()
    ours, theirs = (net(batch.parts, batch.labels).raw for net in (one, two))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
