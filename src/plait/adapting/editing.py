"""Tasks come and go in a running network: nothing that another task hears moves by one bit.

And what each task makes of the weights, for those that merge them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from plait.adapting.base import outermost
from plait.adapting.files import adapted_trunk
from plait.data.seeding import key
from plait.networks.base import TaskBank
from plait.networks.network import Network
from plait.task import Task, TaskSet


def add_task(network: Network, task: Task, *, seed: int = 0) -> None:
    """Give a running network one more task, last in the set: a fresh adapter and head.

    Both start as they would in a network built with it. Raises ``ValueError`` for a name that is
    taken, a frozen network with parts per task, or a method whose second stage combines tasks.
    """
    adapted_trunk(network)
    if task.name in network.tasks.position:
        raise ValueError(f"the network has a task {task.name!r} already")
    _become(network, [*network.tasks, task], seed)


def drop_task(network: Network, name: str) -> None:
    """Take a task out of a running network, adapter and head; ``KeyError`` for an unknown one.

    Raises ``ValueError`` for the last one, and as :func:`add_task`.
    """
    adapted_trunk(network)
    gone = network.tasks[name].name
    rest = [task for task in network.tasks if task.name != gone]
    if not rest:
        raise ValueError(f"{gone!r} is the network's last task")
    _become(network, rest, 0)


def folded_weights(network: Network) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """The frozen weights beneath the adapters, and what they are for each task, its adapter folded.

    By the names of the trunk without adapters. Low-rank adapters are compared and merged as the
    changes B·A that they make; means of A and of B are not means of those. Raises ``ValueError``
    for adapters that cannot be folded.
    """
    trunk = adapted_trunk(network)
    layers = outermost(trunk.base)
    frozen: dict[str, Tensor] = {}
    own: dict[str, dict[str, Tensor]] = {name: {} for name in network.tasks.names}
    with torch.no_grad():
        for position, name in enumerate(network.tasks.names):
            for path, layer in layers.items():
                base = dict(layer.frozen.named_parameters())
                for part, value in layer.bank.fold(layer.frozen, position).items():
                    own[name][f"{path}.{part}"] = value
                    frozen[f"{path}.{part}"] = base[part]
    return frozen, {name: {**frozen, **state} for name, state in own.items()}


def _become(network: Network, tasks: Sequence[Task], seed: int) -> None:
    """Make the network one for these tasks, in place."""
    trunk, found = adapted_trunk(network), TaskSet(tasks)
    if len(trunk.trained):
        raise ValueError(
            f"{trunk.adapter.card.name} combines the adapters of its tasks; add or drop a task "
            "before its second stage"
        )
    if any(isinstance(module, TaskBank) for module in trunk.base.modules()):
        raise ValueError("the frozen network has parts per task of its own, which stay as they are")
    if trunk.chain is not None:
        raise ValueError("tasks that come after one another stay together")
    keyed = key(seed, "bank")
    for path, module in trunk.banks.named_modules():
        if isinstance(module, TaskBank):
            module.select(found.names, keyed, path)
    trunk.seat(found)
    trunk.base.seat(found)
    network.heads.seat(found, keyed, "heads")
    network.tasks = found
    config = network.config = copy.deepcopy(network.config)
    config["start"]["tasks"] = [task.to_json() for task in found]
