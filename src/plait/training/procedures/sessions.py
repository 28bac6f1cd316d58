"""The records of a step as moves of a game: sessions are its rounds, in the order of their rows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from plait.batch import Batch
from plait.networks import Outputs
from plait.networks.network import evaluating
from plait.training.procedures.base import Ground, Problem
from plait.training.procedures.critics import Moves
from plait.training.procedures.probing import on


@torch.no_grad()
def moves_of(problem: Problem, tasks: set[str]) -> dict[str, Moves]:
    """The records of each of the tasks that is present, those of other processes included."""
    whole = on(replace(problem.ground, micro_batches=1, memory=None), problem)
    with whole.kept_buffers(), evaluating(problem.network):
        batch, outputs = whole.run(0)
    return {
        n: _moves(problem.ground, _records(batch, outputs, n)) for n in problem.tasks if n in tasks
    }


def _records(batch: Batch, outputs: Outputs, name: str) -> Tensor:
    """A task's records here [n, 4 + d]: probability, label, row, session and the features."""
    group = batch.tasks[name].group
    labels = batch.labels.get(group)
    if labels is None:
        return torch.zeros(0, 4, device=batch.ids.device)
    mine = (labels.task == batch.tasks.groups[group].position[name]).nonzero()[:, 0]
    wide = torch.float32 if mine.device.type == "mps" else torch.float64  # holds any row's number
    session = torch.full_like(mine, -1) if labels.group is None else labels.group[mine]
    columns = (
        outputs.raw[group][mine, 0].to(wide).sigmoid(),
        labels.target[mine],
        batch.ids[labels.rows[mine]],
        session,
    )
    state = outputs.features[group].records[mine].to(wide)
    return torch.cat([torch.stack([c.to(wide) for c in columns], 1), state], 1)


def _moves(ground: Ground, own: Tensor) -> Moves:
    """Moves by row number, so that it does not matter which process has which row."""
    whole, start = gathered(ground, own)
    order = whole[:, 2].argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    ids, session = whole[order, 2].long(), whole[order, 3].long()
    values = whole[order].to(torch.promote_types(ground.parameters[0].dtype, torch.float32))
    return Moves(
        values[:, 4:],
        values[:, 0],
        values[:, 1],
        following(ids, session),
        place[start : start + len(own)],
    )


def gathered(ground: Ground, rows: Tensor) -> tuple[Tensor, int]:
    """The rows [n, d] of all processes by rank, and where this one's begin; d may be 4 for none."""
    if ground.processes is None:
        return rows, 0
    shapes = rows.new_zeros(ground.processes.size, 2, dtype=torch.float64)
    shapes[ground.processes.rank] = torch.tensor(rows.shape, dtype=torch.float64)
    shapes = ground.total(shapes).long()
    counts, width = shapes[:, 0].tolist(), int(shapes[:, 1].max())
    start = sum(counts[: ground.processes.rank])
    whole = torch.zeros(sum(counts), width, dtype=torch.float64, device=rows.device)
    whole[start : start + len(rows), : rows.shape[1]] = rows
    return ground.total(whole), start


def following(ids: Tensor, session: Tensor) -> Tensor:
    """The place of each record's successor in its session, by row number, -1 where it has none."""
    after = torch.full_like(ids, -1)
    order = torch.argsort(ids, stable=True)
    order = order[torch.argsort(session[order], stable=True)]
    same = (session[order][1:] == session[order][:-1]) & (session[order][1:] >= 0)
    after[order[:-1]] = torch.where(same, order[1:], -1)
    return after
