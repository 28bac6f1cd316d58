"""Images mirrored while training, together with what is labelled in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from plait.batch import Batch, Labels
from plait.data.mixing import Feed
from plait.data.seeding import key
from plait.data.stores import mix
from plait.kinds import KINDS


class Mirrored:
    """A feed whose rows are mirrored left to right, each with a chance of its own.

    Images and labels of pixels turn together; normals turn their x. Whether a row is turned is
    keyed by (seed, step, row), so that a training that goes on sees what it would have seen.
    """

    def __init__(self, feed: Feed, chance: float, seed: int) -> None:
        self.feed = feed
        self.steps = feed.steps
        self.chance = chance
        self.seed = seed

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        batch = self.feed.batch(step)
        drawn = mix(batch.ids.numpy().astype(np.uint64) ^ np.uint64(key(self.seed, "mirror", step)))
        return mirrored(batch, torch.from_numpy(drawn < np.uint64(int(self.chance * (2**64 - 1)))))


def mirrored(batch: Batch, turned: Tensor) -> Batch:
    """The batch with some rows mirrored; ``turned`` [B] says which."""
    parts, start = {}, 0
    for schema, part in batch.parts.items():
        rows = len(next(iter(part.values())))
        mine = turned[start : start + rows]
        parts[schema] = {
            name: _where(mine, value, value.flip(3)) if name.startswith("image.") else value
            for name, value in part.items()
        }
        start += rows
    labels = {
        key_: _turned(found, batch.tasks.groups[key_].kind, turned)
        for key_, found in batch.labels.items()
    }
    return replace(batch, parts=parts, labels=labels)


def _turned(labels: Labels, kind: str, turned: Tensor) -> Labels:
    mirror = KINDS[kind].mirror
    if mirror is None:
        return labels
    mine = turned[labels.rows]
    valid = labels.valid
    return replace(
        labels,
        target=_where(mine, labels.target, mirror(labels.target)),
        valid=None if valid is None else _where(mine, valid, valid.flip(2)),
    )


def _where(rows: Tensor, plain: Tensor, other: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *[1] * (plain.ndim - 1)), other, plain)
