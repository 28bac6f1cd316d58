from __future__ import annotations

import pytest
from training_toys import KINDS, Deck, make_network

from plait.networks import Network
from plait.task import TaskSet
from plait.testing.toys import toy_tasks


@pytest.fixture
def tasks() -> TaskSet:
    return toy_tasks(KINDS)


@pytest.fixture
def network(tasks: TaskSet) -> Network:
    return make_network(tasks)


@pytest.fixture
def deck(tasks: TaskSet) -> Deck:
    return Deck(tasks)
