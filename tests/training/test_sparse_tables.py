"""Embedding tables whose steps move looked-up rows only, through training, saving and methods."""

from __future__ import annotations

import pytest
import torch

from plait.balancing.equal import Equal
from plait.batch import Input
from plait.method import methods, resolve
from plait.networks import Network, build_network, build_side_by_side
from plait.networks.side_by_side import stackable
from plait.sharing import Hard, Stem
from plait.task import Task, TaskSet
from plait.testing.toys import toy_batch, toy_inputs
from plait.training import RowwiseAdamW, fit

CODES = 40
INPUTS = {
    **toy_inputs(),
    "categorical": Input(key="categorical", type="categorical", shape=(2,), sizes=(CODES, CODES)),
}
TASKS = TaskSet([Task(name="a"), Task(name="b", kind="real"), Task(name="c")])
PROCEDURES = [entry.name for entry in methods("procedure")]


def encoder(sparse):
    table = {"embedding": {"width": 3, "sparse": sparse}}
    return {"categorical": table, "trunk": {"mlp": {"width": 8, "depth": 1}}}


def made(*, sparse=True, sharing=None):
    return build_network(
        inputs=INPUTS, tasks=TASKS, encoder=encoder(sparse), sharing=sharing or Hard(), seed=0
    )


class Feed:
    """Batches that look up codes below ``most``; one large enough looks up all of them."""

    steps = 4

    def __init__(self, rows=16, most=CODES):
        self.tasks, self.rows, self.most = TASKS, rows, most

    def batch(self, step):
        batch = toy_batch(TASKS, seed=step, rows=self.rows)
        rows = torch.arange(self.rows)
        batch.parts["table"]["categorical"] = torch.stack([rows + step, 3 - rows], 1) % self.most
        return batch


def table(network):
    return network.trunk.encoder.stems["categorical"].tables[0].weight


def trained(network, feed, *, decay=0.0, **how):
    optimizer = RowwiseAdamW(network.parameters(), weight_decay=decay)
    fit(network, feed, Equal(), optimizer, steps=4, clip=0.01, seed=0, **how)
    return network


@pytest.mark.parametrize("pieces", [1, 3])
def test_where_every_row_is_looked_up_it_is_a_usual_table(pieces):
    """The clipping counts a row once, however often it was looked up."""
    feed = Feed(rows=2 * CODES)
    sparse = trained(made(), feed, micro_batches=pieces)
    dense = trained(made(sparse=False), feed, micro_batches=pieces)
    for name, parameter in dense.named_parameters():
        torch.testing.assert_close(sparse.get_parameter(name), parameter)


def test_rows_that_nobody_looks_up_stay():
    network = made()
    before = table(network).detach().clone()
    trained(network, Feed(most=10), decay=0.1)
    moved = (table(network) != before).any(1).view(2, CODES)
    assert moved[:, :10].all()
    assert not moved[:, 10:].any()


@pytest.mark.parametrize("procedure", PROCEDURES)
def test_every_procedure_takes_sparse_tables(procedure):
    chosen = resolve("procedure", procedure)
    network = chosen.prepare(made())
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    fit(network, Feed(), Equal(), steps=2, seed=0, procedure=chosen, validation=Feed())
    tables = [name for name, _ in network.named_parameters() if ".tables." in name]
    assert tables
    for name in tables:
        assert not torch.equal(network.get_parameter(name), before[name])
        assert network.get_parameter(name).isfinite().all()


@pytest.mark.parametrize("balancer", ["pcgrad", "uncertainty", "graddrop", "nash_mtl"])
def test_balanced_updates_are_those_of_a_usual_table(balancer):
    def stepped(sparse):
        network = made(sparse=sparse)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        fit(network, Feed(rows=6), resolve("balancing", balancer), optimizer, steps=2, seed=0)
        return network

    one, two = stepped(sparse=True), stepped(sparse=False)
    torch.testing.assert_close(table(one), table(two))


def test_a_saved_network_keeps_its_sparse_tables(tmp_path):
    network = made()
    network.save_pretrained(tmp_path)
    again = Network.from_pretrained(tmp_path)
    assert again.trunk.encoder.stems["categorical"].tables[0].sparse
    torch.testing.assert_close(table(again), table(network), rtol=0, atol=0)


def test_separate_networks_with_sparse_tables_are_not_stacked():
    assert stackable(encoder(sparse=False), INPUTS)
    assert not stackable(encoder(sparse=True), INPUTS)
    with pytest.raises(ValueError, match=r"sparse tables .* cannot run side by side"):
        build_side_by_side(inputs=INPUTS, tasks=TASKS, encoder=encoder(sparse=True), seed=0)
    with pytest.raises(ValueError, match=r"sparse tables .* cannot run side by side"):
        made(sharing=Stem())
