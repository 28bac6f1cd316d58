"""CGC, PLE and AdaTT against their papers' equations, one row and one expert at a time."""

from __future__ import annotations

import pytest
import torch
from written_out import DIRECT, assert_features, batch_for, expert, gate, network, size, some_tasks

from plait.sharing import AdaTT, Cgc, Mmoe, Ple

FORMS = [
    pytest.param(3, {"experts": 1, "shared": 2, "levels": 2}, id="equal"),
    pytest.param(3, {"experts": {"t0": 3, "t2": 2}, "shared": 2, "levels": 3}, id="unequal"),
    pytest.param(3, {"experts": {"t1": 2}, "shared": 1, "levels": 1, "depth": 2}, id="one-level"),
    pytest.param(1, {"experts": 2, "shared": 1, "levels": 2}, id="one-task"),
    pytest.param(40, {"experts": 1, "shared": 1, "levels": 2}, id="forty-tasks"),
]
NO_OWN = pytest.param(3, {"experts": {"t0": 0, "t1": 2}, "shared": 2, "levels": 3}, id="none-own")
NO_SHARED = pytest.param(3, {"experts": {"t1": 2}, "shared": 0, "levels": 3}, id="none-shared")


def written_out(trunk, x, *, reads_all=False, residual=False):
    """{task: features} of one row x, as the papers write it."""
    names = [*trunk.tasks.names, "shared"]
    state = dict.fromkeys(names, x)
    for number, level in enumerate(trunk.levels):
        last = number == len(trunk.levels) - 1
        outputs = {}
        for owner, experts in (("own", level.own), ("shared", level.common)):
            if experts is None:
                continue
            for e, (name, _, place) in enumerate(experts.layers[0].slices):
                unit = name if owner == "own" else "shared"
                outputs[None if unit == "shared" else unit, place] = expert(experts, e, state[unit])
        following = {}
        for unit in names:
            if unit == "shared" and (last or level.shared_gate is None):
                continue
            gates = level.shared_gate if unit == "shared" else level.gates
            given = gate(gates, None if unit == "shared" else unit, state[unit])
            owner = None if unit == "shared" else unit
            allowed = {
                key for key in outputs if reads_all or unit == "shared" or key[0] in (owner, None)
            }
            assert set(given) == allowed
            total = sum(weight * outputs[key] for key, weight in given.items())
            if residual:
                native = [key for key in outputs if key[0] == owner]
                learnt = level.residual.learnt
                bank = learnt and (
                    level.residual.common if unit == "shared" else level.residual.own
                )
                for key in native:
                    v = bank.weight[bank.slices.index((key[0], None, key[1]))] if learnt else 1.0
                    total = total + v * outputs[key]
            following[unit] = total
        state = following
    return {name: state[name] for name in trunk.tasks.names}


def assert_equal(sharing, tasks, **how):
    net = network(sharing, tasks)
    for missing, rows in ((0.0, 1), (0.5, 4)) if len(tasks) < 40 else ((0.5, 2),):
        batch = batch_for(tasks, missing=missing, rows=rows)
        x = batch.parts["table"]["numeric"]
        rows = [written_out(net.trunk, row, **how) for row in x]
        assert_features(net, batch, lambda task, row, rows=rows: rows[row][task])


@pytest.mark.parametrize(("count", "settings"), [*FORMS, NO_OWN, NO_SHARED])
def test_ple_is_the_papers(count, settings):
    assert_equal(Ple(width=5, **settings), some_tasks(count))


@pytest.mark.parametrize("settings", [{"experts": 2}, {"experts": {"t0": 3, "t1": 0}, "depth": 2}])
def test_cgc_is_one_level_of_it(settings):
    assert_equal(Cgc(width=5, **settings), some_tasks(3))


@pytest.mark.parametrize(("count", "settings"), [*FORMS, NO_SHARED])
def test_adatt_is_the_papers(count, settings):
    assert_equal(AdaTT(width=5, **settings), some_tasks(count), reads_all=True, residual=True)


def experts_and_gates(count, settings, width, inside=4):
    """Numbers that the formulas have in common: experts [levels], the tasks' own, widths."""
    own = [settings["experts"]] * count
    if isinstance(settings["experts"], dict):
        own = [settings["experts"].get(f"t{i}", 1) for i in range(count)]
    depth = settings.get("depth", 1)
    widths = [inside] + [width] * (settings["levels"] - 1)
    each = [(d + 1) * width + (depth - 1) * (width + 1) * width for d in widths]
    return own, widths, each


@pytest.mark.parametrize(("count", "settings"), [*FORMS, NO_OWN, NO_SHARED])
def test_ples_parameters_are_the_formulas(count, settings):
    own, widths, each = experts_and_gates(count, settings, 5)
    shared = settings["shared"]
    expected = 0
    for level, (d, n) in enumerate(zip(widths, each, strict=True)):
        expected += (shared + sum(own)) * n + sum((d + 1) * (mine + shared) for mine in own)
        if level < len(widths) - 1 and shared:
            expected += (d + 1) * (shared + sum(own))
    assert size(network(Ple(width=5, **settings), some_tasks(count))) == expected


@pytest.mark.parametrize(("count", "settings"), [*FORMS, NO_SHARED])
def test_adatts_parameters_are_the_formulas(count, settings):
    own, widths, each = experts_and_gates(count, settings, 5)
    shared = settings["shared"]
    total = shared + sum(own)
    learnt = any(mine != 1 for mine in (*own, *[shared] * bool(shared)))
    expected = 0
    for level, (d, n) in enumerate(zip(widths, each, strict=True)):
        inner = level < len(widths) - 1 and shared > 0
        expected += total * n + (count + inner) * (d + 1) * total
        expected += learnt * (sum(own) + inner * shared)
    assert size(network(AdaTT(width=5, **settings), some_tasks(count))) == expected


def test_ple_without_own_experts_is_an_mmoe():
    tasks = some_tasks(3)
    ple = network(Ple(experts=0, shared=4, levels=1, width=5), tasks)
    mmoe = network(Mmoe(experts=4, width=5), tasks)
    level = ple.trunk.levels[0]
    with torch.no_grad():
        level.gates.bank.bias.zero_()
        for ours, theirs in ((level.common, mmoe.trunk.experts), (level.gates, mmoe.trunk.gate)):
            theirs.load_state_dict(ours.state_dict(), strict=False)
    mmoe.heads.load_state_dict(ple.heads.state_dict())
    batch = batch_for(tasks)
    ours, theirs = (net(batch.parts, batch.labels).raw for net in (ple, mmoe))
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=1e-12)


def reached(net, batch, task):
    """Whose experts a task's loss trains at the first level."""
    net.zero_grad()
    own = batch.only({task})
    sum(raw.sum() for raw in net(own.parts, own.labels).raw.values()).backward()
    bank = net.trunk.levels[0].own.layers[0]
    grads = bank.weight.grad
    if grads is None:
        return set()
    return {name for name, part in zip(bank.names, grads, strict=True) if part.any()}


@pytest.mark.parametrize(
    ("sharing", "whose"),
    [
        (Cgc(width=6), {"t1"}),
        (Ple(width=6, levels=1), {"t1"}),
        (Ple(width=6, levels=2), {"t0", "t1", "t2"}),  # through the shared unit
        (Ple(width=6, levels=3, shared=0, experts=2), {"t1"}),
        (AdaTT(width=6, levels=1), {"t0", "t1", "t2"}),
    ],
)
def test_a_task_trains_the_experts_it_reads(sharing, whose):
    tasks = some_tasks(3)
    assert reached(network(sharing, tasks), batch_for(tasks, rows=16), "t1") == whose


def test_adatt_without_gates_is_the_mean_and_the_tasks_own():
    tasks = some_tasks(3)
    net, batch = network(AdaTT(width=5, levels=1), tasks), batch_for(tasks)
    level = net.trunk.levels[0]
    with torch.no_grad():
        level.gates.bank.weight.zero_()
        level.gates.bank.bias.zero_()
    outputs = level.own(batch.parts["table"]["numeric"])
    assert_features(
        net, batch, lambda task, row: outputs[row].mean(0) + outputs[row, tasks.position[task]]
    )


def test_only_what_is_asked_for_is_computed():
    tasks = some_tasks(4)
    batch = batch_for(tasks)
    for sharing in (Cgc(width=5), Ple(width=5, levels=2)):
        net, ran = network(sharing, tasks), []
        last = net.trunk.levels[-1]
        last.own.register_forward_hook(lambda _, args, out, ran=ran: ran.append(out.shape[1]))
        some = batch.only({"t2"})
        net(some.parts, some.labels)
        net(batch.parts, batch.labels)
        assert ran == [1, 4]


@pytest.mark.parametrize("sharing", [Ple(width=5), Cgc(width=5), AdaTT(width=5)])
def test_equal_experts_are_that_expert(sharing):
    """Gates sum to one; AdaTT's residual adds the expert once more."""
    tasks = some_tasks(3)
    net, batch = network(sharing, tasks), batch_for(tasks)
    twice = isinstance(sharing, AdaTT)
    expected = batch.parts["table"]["numeric"]
    with torch.no_grad():
        for level in net.trunk.levels:
            banks = [found.layers[0] for found in (level.own, level.common) if found is not None]
            for name in ("weight", "bias"):
                first = getattr(banks[0], name)[:1].clone()
                for bank in banks:
                    getattr(bank, name).copy_(first.expand_as(getattr(bank, name)))
            expected = (1 + twice) * torch.stack([expert(level.own, 0, row) for row in expected])
    assert_features(net, batch, lambda task, row: expected[row])


@pytest.mark.parametrize(
    ("sharing", "message"),
    [
        (lambda: Ple(experts=-1), "experts must be at least 0, got -1"),
        (lambda: Ple(experts={"t0": -2}), "experts must be at least 0, got -2"),
        (lambda: Cgc(width=0), "width must be at least 1"),
        (lambda: AdaTT(experts=0), "experts must be at least 1"),
        (lambda: network(Ple(experts={"t7": 2}), some_tasks(2)), "no task 't7'.*t0"),
        (
            lambda: network(Ple(experts={"t1": 0}, shared=0), some_tasks(2)),
            "task 't1' has no expert",
        ),
    ],
)
def test_impossible_settings_are_refused(sharing, message):
    with pytest.raises(ValueError, match=message):
        sharing()


def test_a_task_without_an_expert_is_refused_before_anything_is_made(monkeypatch):
    def made(*_args):
        raise AssertionError("an encoder was made")

    monkeypatch.setattr("plait.networks.network.make_encoder", made)
    with pytest.raises(ValueError, match="has no expert"):
        network(Cgc(experts=0, shared=0), some_tasks(2), encoder=DIRECT)
