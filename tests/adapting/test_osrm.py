from __future__ import annotations

import pytest
import torch
from adapter_nets import TASKS, bert, texts, trunk_of

from plait.adapting import build_adapted
from plait.adapting.osrm import Osrm
from plait.batch import Batch, Input, Labels
from plait.comparing.cells import make, ordered
from plait.comparing.strategies.adapt import Adapt
from plait.networks import build_network
from plait.sharing import Hard
from plait.task import TaskSet
from plait.testing.strategies import toy_plan

D, ROWS = 12, 40


def network(tasks=TASKS, **settings):
    """12 inputs, read by the first linear layer as they are, adapted there."""
    base = build_network(
        inputs={"vector.x": Input(key="vector.x", type="vector", shape=(D,))},
        tasks=tasks,
        encoder={"trunk": {"mlp": {"width": 9, "depth": 1}}},
        sharing=Hard(),
        seed=0,
    )
    settings = {"rank": 3, **settings}
    return build_adapted(base.double(), Osrm(**settings), 0).double().eval()


def batches(subspaces, turned=TASKS):
    """A batch of rows for each task, inside a subspace of its own [k, d]."""
    draw, rows = torch.Generator().manual_seed(1), torch.arange(ROWS)
    for name, basis in zip(TASKS.names, subspaces, strict=True):
        x = torch.randn(ROWS, len(basis), generator=draw, dtype=torch.float64) @ basis
        labels = Labels(torch.full((ROWS,), turned.position[name]), rows, torch.zeros(ROWS))
        yield Batch({"a": {"vector.x": x}}, {"binary": labels}, turned, rows)


def subspaces(*widths):
    basis = torch.linalg.qr(
        torch.randn(D, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ).Q.T
    return torch.split(basis, widths)


def first_bank(found):
    return next(iter(trunk_of(found).banks.values()))


def test_no_task_reads_what_the_others_send_where_there_is_room():
    found = network()
    bases = subspaces(3, 3, 3, 3)[:3]
    Osrm(rank=3).begin(found.trunk, batches(bases))
    down = first_bank(found).down.detach()
    for task in range(3):
        torch.testing.assert_close(down[task] @ down[task].T, torch.eye(3).double())
        for other in range(3):
            if other != task:
                assert (down[task] @ bases[other].T).abs().max() < 1e-10
        assert (down[task] @ bases[task].T).abs().max() > 0.1


def test_frozen_a_keeps_the_other_tasks_outputs_whatever_b_becomes():
    found = network(frozen=True)
    Osrm(rank=3, frozen=True).begin(found.trunk, batches(subspaces(3, 3, 3, 3)[:3]))
    bank = first_bank(found)
    assert {name for name, _ in bank.named_parameters()} == {"up"}
    bank.up.data.normal_()
    x = torch.randn(5, 3, dtype=torch.float64) @ subspaces(3, 3, 3, 3)[1]
    for other in (0, 2):
        assert (x @ bank.change(other).T).abs().max() < 1e-10
    assert (x @ bank.change(1).T).abs().max() > 0.1


def test_where_there_is_no_room_the_least_is_read_that_can_be():
    found = network()
    bases = subspaces(5, 4, 3)
    given = list(batches(bases))
    Osrm(rank=3).begin(found.trunk, given)
    x = [batch.parts["a"]["vector.x"] for batch in given]
    for task in range(3):
        others = sum(x[u].T @ x[u] / ROWS for u in range(3) if u != task)
        down = first_bank(found).down[task]
        least = torch.linalg.eigvalsh(others)[:3].sum()
        torch.testing.assert_close((down @ others @ down.T).trace(), least, rtol=0, atol=1e-10)


def test_every_task_weighs_the_same_and_has_so_many_rows_only():
    one, two = network(), network()
    bases = subspaces(5, 4, 3)
    Osrm(rank=3, samples=20).begin(one.trunk, batches(bases))
    cut = [batch.rows(torch.arange(20)) for batch in batches(bases)]
    again = [*cut, *cut]  # rows beyond the number are not looked at
    Osrm(rank=3, samples=20).begin(two.trunk, again)
    assert torch.equal(first_bank(one).down, first_bank(two).down)
    doubled = [cut[0], cut[0], *cut[1:]]  # the same rows twice are the same moment
    Osrm(rank=3, samples=40).begin(two.trunk, doubled)
    torch.testing.assert_close(
        (first_bank(one).down.mT @ first_bank(one).down).detach(),
        (first_bank(two).down.mT @ first_bank(two).down).detach(),
    )


def test_the_order_of_tasks_does_not_matter_where_much_is_free():
    bases, turned = subspaces(2, 2, 2, 6)[:3], TaskSet(reversed(list(TASKS)))
    one, two = network(), network(tasks=turned)
    Osrm(rank=3).begin(one.trunk, batches(bases))
    Osrm(rank=3).begin(two.trunk, batches(bases, turned=turned))
    torch.testing.assert_close(
        first_bank(one).down, first_bank(two).down.flip(0), rtol=0, atol=1e-10
    )


def labelled(value, tasks):
    """A batch of texts, one for each of these tasks."""
    rows = torch.arange(len(tasks))
    labels = Labels(torch.tensor(tasks), rows, torch.zeros(len(tasks)))
    return Batch({"a": {"text.review": value}}, {"binary": labels}, TASKS, rows)


def test_padding_is_not_looked_at():
    pytest.importorskip("transformers")
    value = texts(6, 3)
    together, alone = (build_adapted(bert().double(), Osrm(rank=2), 0).double() for _ in range(2))
    before = [bank.down.detach().clone() for bank in trunk_of(alone).banks.values()]
    Osrm(rank=2).begin(together.trunk, [labelled(value, [0, 1])])
    pieces = [labelled(value[[0]], [0]), labelled(value[[1], :3], [1])]
    Osrm(rank=2).begin(alone.trunk, pieces)
    for path, start in zip(trunk_of(alone).banks, before, strict=True):
        one, two = trunk_of(together).banks[path].down, trunk_of(alone).banks[path].down
        torch.testing.assert_close(one, two, rtol=0, atol=1e-9)
        assert not torch.allclose(two, start)


def test_starts_as_the_frozen_network():
    found = network()
    before = found.trunk.training
    Osrm(rank=3).begin(found.trunk, batches(subspaces(5, 4, 3)))
    assert found.trunk.training == before
    bank = first_bank(found)
    assert (bank.up == 0).all()


def test_the_strategy_shows_it_the_training_rows(tmp_path):
    plan = toy_plan()
    adapter = {"osrm": {"rank": 2, "samples": 10}}
    done = {}
    for number, cell in enumerate(ordered([make(plan, Adapt(method=adapter), 0)])):
        parts = {name: done[part.key] for name, part in cell.parts.items()}
        done[cell.key] = cell.strategy.run(cell.plan, parts, 0, tmp_path / str(number))
    model = list(done.values())[-1]
    plain = build_adapted(next(iter(done.values())).network, Osrm(rank=2, samples=10), 0)
    for path, bank in trunk_of(model.network).banks.items():
        rows = torch.linalg.vector_norm(bank.down, dim=2)
        torch.testing.assert_close(rows, torch.ones_like(rows), rtol=0, atol=0.2)  # trained on
        before = torch.linalg.vector_norm(trunk_of(plain).banks[path].down, dim=2)
        assert before.max() < 0.9


def test_nothing_to_look_at_is_told():
    with pytest.raises(ValueError, match="and there is none"):
        Osrm(rank=3).begin(network().trunk, [])
    with pytest.raises(ValueError, match="samples must be at least 1"):
        Osrm(samples=0)
