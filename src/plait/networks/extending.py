"""More tasks for a trained network: for those it has it gives the same, to the last bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from plait.method import resolve
from plait.networks.base import TaskBank, bank_slices, task_slices
from plait.networks.network import Network, rebuild
from plait.task import Task


def extended(
    network: Network, tasks: Sequence[Task], *, priors: Mapping[str, Tensor] | None = None
) -> Network:
    """A copy of the network with more tasks, last in the set; the network itself stays as it is.

    What belongs to the new tasks starts as in a network built with them, their heads at ``priors``
    (see ``prior_of``). What was there is frozen, but for stacks that have slices of the new tasks:
    trained on these alone by plait's own optimizer (which leaves absent tasks' slices), the copy
    keeps the outputs of all others. Raises ``ValueError`` for a name that is taken, and for an
    architecture in which one task's outputs depend on which others there are.
    """
    for task in tasks:
        if task.name in network.tasks.position:
            raise ValueError(f"the network has a task {task.name!r} already")
    if "sharing" not in network.config:
        raise ValueError("this network has adapters; give it tasks by plait.adapting.add_task")
    card = resolve("sharing", network.config["sharing"]).card
    reason = card.exceptions.get("more_tasks_change_no_output")
    if reason is not None:
        raise ValueError(f"{card.name} cannot take tasks later: {reason}")
    new = [task.to_json() for task in tasks]
    found = rebuild({**network.config, "tasks": [*network.config["tasks"], *new]})
    found.heads.start_at(priors or {})
    like = next(network.parameters())
    found.to(device=like.device, dtype=like.dtype)
    _take(found, network)
    return found.train(network.training)


@torch.no_grad()
def _take(found: Network, before: Network) -> None:
    """Fill in all that was there, and freeze what no new task has a part of."""
    old = {**dict(before.named_parameters()), **dict(before.named_buffers())}
    for name, parameter in found.named_parameters():
        if name not in old:
            continue
        there = old[name]
        if task_slices(parameter) is not None:
            _slices(parameter, there)
        elif parameter.shape == there.shape and bank_slices(parameter) == bank_slices(there):
            parameter.copy_(there)
            parameter.requires_grad_(False)
        else:
            raise ValueError(f"{name} is shared, and has another shape with more tasks")
    for path, module in found.named_modules():
        _notes(path, module, before, old)


def _slices(parameter: Tensor, old: Tensor) -> None:
    place = {own: row for row, own in enumerate(bank_slices(parameter) or ())}
    for row, own in enumerate(bank_slices(old) or ()):
        parameter[place[own]] = old[row]


def _notes(path: str, module: nn.Module, before: Network, old: Mapping[str, Tensor]) -> None:
    """The buffers of a module; those of stacks slice by slice."""
    noted: Mapping[str, float] = module.notes if isinstance(module, TaskBank) else {}
    for name, buffer in module.named_buffers(recurse=False):
        there = old.get(f"{path}.{name}".lstrip("."))
        if there is None or name in module._non_persistent_buffers_set:
            continue
        if name not in noted:
            buffer.copy_(there)
            continue
        bank = before.get_submodule(path)
        assert isinstance(bank, TaskBank)
        assert isinstance(module, TaskBank)
        place = {own: row for row, own in enumerate(module.slices)}
        for row, own in enumerate(bank.slices):
            buffer[place[own]] = there[row]
