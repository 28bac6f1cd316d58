from __future__ import annotations

import pytest
import torch
from written_out import assert_features, batch_for, expert, gate, network, size, some_tasks

from plait.sharing import Mmoe, Mmoeex, diversity, expert_use
from plait.sharing.mmoeex import readers_of
from plait.task import TaskSet


@pytest.mark.parametrize(
    ("count", "settings"),
    [
        (3, {}),
        (3, {"by": "exclusion", "depth": 2}),
        (1, {}),
        (1, {"by": "exclusion"}),
        (40, {"closed": 0.9}),
    ],
)
def test_features_are_the_papers(count, settings):
    tasks = some_tasks(count)
    sharing = Mmoeex(width=5, **settings)
    net, open_to = network(sharing, tasks), readers_of(tasks, sharing)
    batch = batch_for(tasks, missing=0.4, rows=3)
    x = batch.parts["table"]["numeric"]

    def written_out(task, row):
        outputs = [expert(net.trunk.experts, e, x[row]) for e in range(12)]
        given = list(gate(net.trunk.gate, task, x[row]).values())
        mine = [e for e in range(12) if task in open_to[e]]
        assert len(given) == len(mine)
        return sum(w * outputs[e] for w, e in zip(given, mine, strict=True))

    assert_features(net, batch, written_out)


def test_nothing_is_closed_without_a_share():
    tasks = some_tasks(3)
    ours, theirs = (
        network(Mmoeex(experts=4, closed=0, width=5), tasks),
        network(Mmoe(experts=4, width=5), tasks),
    )
    with torch.no_grad():
        ours.trunk.gate.bank.bias.zero_()
        theirs.trunk.gate.bank.weight.copy_(ours.trunk.gate.bank.weight)
        theirs.trunk.experts.load_state_dict(ours.trunk.experts.state_dict())
    batch = batch_for(tasks)
    one, two = (net(batch.parts, batch.labels).raw for net in (ours, theirs))
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=1e-12)


def test_a_closed_expert_is_neither_read_nor_trained():
    tasks, sharing = some_tasks(3), Mmoeex(width=6)
    net, open_to = network(sharing, tasks), readers_of(tasks, sharing)
    batch = batch_for(tasks, rows=30).only({"t1"})
    net(batch.parts, batch.labels).raw["real"].sum().backward()
    used = net.trunk.experts.layers[0].weight.grad.flatten(1).any(1)
    assert used.tolist() == ["t1" in some for some in open_to]
    (use,) = expert_use(net, batch.parts)
    for t, name in enumerate(tasks.names):
        for e, some in enumerate(open_to):
            assert (use.load[t, e] > 0) == (name in some)


@pytest.mark.parametrize("by", ["exclusivity", "exclusion"])
def test_the_draw_is_the_share_and_follows_the_names(by):
    tasks = some_tasks(5)
    found = readers_of(tasks, Mmoeex(experts=40, by=by))
    alone = [some for some in found if len(some) == (1 if by == "exclusivity" else 4)]
    assert len(alone) == 30
    assert found[30:] == [frozenset(tasks.names)] * 10
    assert len(set(alone)) == 5  # among thirty draws of five, each is there
    assert readers_of(TaskSet(reversed(list(tasks))), Mmoeex(experts=40, by=by)) == found
    assert readers_of(tasks, Mmoeex(experts=40, by=by, draw=1)) != found


def test_diversity_is_the_distance_between_what_experts_say():
    tasks = some_tasks(2)
    net, batch = network(Mmoeex(experts=4, width=5), tasks), batch_for(tasks, rows=6)
    with torch.no_grad():
        for parameter in net.trunk.experts.parameters():
            parameter[3].copy_(parameter[1])
    found, x = diversity(net, batch.parts), batch.parts["table"]["numeric"]
    outputs = [torch.cat([expert(net.trunk.experts, e, row) for row in x]) for e in range(4)]
    expected = torch.stack([
        torch.stack([(one - two).square().sum().sqrt() for two in outputs]) for one in outputs
    ])  # fmt: skip
    torch.testing.assert_close(found, expected / expected.max())
    assert found[1, 3] == 0
    with pytest.raises(ValueError, match="no experts with exclusivity"):
        diversity(network(Mmoe(), tasks), batch.parts)


@pytest.mark.parametrize(("by", "pairs"), [("exclusivity", 9 + 9), ("exclusion", 18 + 9)])
def test_parameters_are_the_formulas(by, pairs):
    net = network(Mmoeex(width=5, depth=2, by=by), some_tasks(3))
    assert size(net) == 12 * (5 * 5 + 6 * 5) + pairs * 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts": 0}, "experts must be at least 1"),
        ({"closed": 1.0}, "closed must leave an expert open to all"),
        ({"by": "luck"}, "by must be exclusivity or exclusion"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Mmoeex(**settings)
