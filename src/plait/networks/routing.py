"""Products with stacked per-task weights, routed by record.

Four exact ways, chosen by shape (measured on one core and a 256-wide trunk): all tasks on all rows
in one product when most pairs are asked for; a gather of weights when records are few or outputs
narrow; one batched product where the tasks have equally many records; else a loop over the tasks'
contiguous segments. Only present tasks take part, so a broken absent task cannot touch the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from plait.networks.base import Features

DENSE = 16  # one product beats a gather up to this many computed pairs for each pair asked
GATHER = 13_000  # a gather beats the loop up to this many gathered weights for each task

_FOLLOWED: ContextVar[bool] = ContextVar("followed", default=False)


@contextmanager
def following() -> Iterator[None]:
    """Inside, ways are taken that hold for any number of rows and any task of them.

    For exporters, which follow the code once: what is counted then would be fixed for ever.
    """
    before = _FOLLOWED.set(True)
    try:
        yield
    finally:
        _FOLLOWED.reset(before)


def followed() -> bool:
    """Whether the code runs inside :func:`following`."""
    return _FOLLOWED.get()


def routed_linear(
    features: Features, task: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """One linear map per record by its task: [N, outputs].

    ``task`` [N] positions, ascending; ``weight`` [T, outputs, width]; ``bias`` [T, outputs].
    """
    if followed():
        if features.rows is not None:
            return _dense(features.values, features.rows, task, weight, bias)
        return _gather(features.records, task, weight, bias)
    if len(task) == 0:
        return features.values.new_zeros(0, weight.shape[1])
    if task.is_cuda:  # counting the segments would wait for the device
        return _gather(features.records, task, weight, bias)
    present, local, counts = torch.unique_consecutive(task, return_inverse=True, return_counts=True)
    if len(present) < len(weight):
        weight = weight.index_select(0, present)
        bias = None if bias is None else bias.index_select(0, present)
    rows = features.rows
    if rows is not None and len(features.values) * len(present) <= DENSE * len(task):
        return _dense(features.values, rows, local, weight, bias)
    records = features.records
    if len(records) == len(present) * int(counts[0]) and bool((counts == counts[0]).all()):
        return _batched(records.view(len(present), -1, records.shape[1]), weight, bias)
    if records[0].numel() * weight.shape[1] * len(records) <= GATHER * len(present):
        return _gather(records, local, weight, bias)
    return _segments(records, counts, weight, bias)


def _dense(
    values: Tensor, rows: Tensor, task: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    tasks, outputs, width = weight.shape
    flat = weight.reshape(tasks * outputs, width)
    every = torch.nn.functional.linear(values, flat, None if bias is None else bias.flatten())
    return every.view(-1, outputs).index_select(0, rows * tasks + task)


def _gather(records: Tensor, task: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    own = weight.index_select(0, task)
    if own.shape[1] == 1:
        found = (own[:, 0] * records).sum(1, keepdim=True)
    else:
        found = torch.bmm(own, records.unsqueeze(2)).squeeze(2)
    return found if bias is None else found + bias.index_select(0, task)


def _batched(records: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Records [T, n, width], equally many of every task."""
    across = weight.transpose(1, 2)
    if bias is None:
        return torch.bmm(records, across).flatten(0, 1)
    return torch.baddbmm(bias.unsqueeze(1), records, across).flatten(0, 1)


def _segments(records: Tensor, counts: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    pieces = torch.split(records, counts.tolist())
    biases = [None] * len(weight) if bias is None else bias.unbind(0)
    linear = torch.nn.functional.linear
    return torch.cat([linear(*each) for each in zip(pieces, weight.unbind(0), biases, strict=True)])
