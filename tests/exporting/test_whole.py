from __future__ import annotations

import pytest
import torch

from plait.batch import Records
from plait.exporting.whole import Whole, traced
from plait.method import Need
from plait.networks import build_network
from plait.networks.routing import following
from plait.testing import registered
from plait.testing.toy_networks import GROUNDS, dressed, in_chain
from plait.testing.toys import toy_batch, toy_tasks

SHARING = {name: cls for name, cls in registered().items() if name.startswith("sharing.")}


def made(cls):
    tasks = toy_tasks()
    if Need.ORDERED in cls.card.needs:
        tasks = in_chain(tasks)
    inputs, encoder = GROUNDS[cls.place]
    encoder = {} if cls.place == "row" else encoder
    return build_network(inputs=inputs, tasks=tasks, encoder=encoder, sharing=cls(), seed=1)


def predicted(network, batch, name):
    key = network.tasks[name].group
    place = network.tasks.groups[key].position[name]
    rows = torch.arange(len(batch))
    return network.predict(batch.parts, {key: Records(torch.full_like(rows, place), rows)})[key]


@pytest.mark.parametrize("name", SHARING)
def test_every_way_of_sharing_is_followed_exactly(name):
    network = made(SHARING[name])
    batch = dressed(toy_batch(network.tasks, missing=0.0))
    for names in (network.tasks.names, ["binary.2", "real.1"]):
        with following():
            found = Whole(network, names)(batch.parts["table"])
        assert set(found) == set(names)
        for task, values in found.items():
            torch.testing.assert_close(values, predicted(network, batch, task))


@pytest.mark.parametrize("name", ["sharing.ple", "sharing.esmm"])
def test_the_graph_serves_any_number_of_rows(name):
    network = made(SHARING[name])
    batch = toy_batch(network.tasks, rows=7, missing=0.0)
    few = toy_batch(network.tasks, rows=3).parts["table"]
    graph = traced(Whole(network, network.tasks.names), dict(few), {})
    for task, values in graph.module()(part=dict(batch.parts["table"])).items():
        torch.testing.assert_close(values, predicted(network, batch, task))
