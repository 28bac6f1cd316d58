"""Single inputs of an encoder, encoded as it encodes them: what tells tasks or domains apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plait.batch import Parts
from plait.method import did_you_mean
from plait.networks.base import Encoder
from plait.networks.encoder import StemEncoder
from plait.networks.stems import Stem
from plait.task import TaskSet

Chosen = tuple[tuple[str, str], ...]  # the stem and the key of each input


def chosen(setting: str, named: Sequence[str], encoder: Encoder, tasks: TaskSet) -> Chosen:
    """The inputs of these names: ``hashed.user``, or ``user`` where no other ends so.

    Raises ``ValueError`` for a name that no input has, and where inputs cannot be told apart.
    """
    if not named:
        return ()
    if not isinstance(encoder, StemEncoder):
        raise ValueError(f"{setting}: an encoder of your own has no inputs to choose from")
    if any(task.place != "row" for task in tasks):
        raise ValueError(f"{setting}: inputs can be chosen only for tasks with one label a row")
    found = []
    for kind, stem in encoder.stems.items():
        assert isinstance(stem, Stem)
        found += [(kind, key) for key in stem.keys]
    picked = []
    for name in named:
        mine = [pair for pair in found if name in (pair[1], pair[1].partition(".")[2])]
        if len(mine) != 1:
            known = [key for _, key in found]
            raise ValueError(f"{setting}: no input {name!r}{did_you_mean(name, known)}")
        picked.append(mine[0])
    return tuple(picked)


def width_of(encoder: Encoder, inputs: Chosen) -> int:
    """The numbers that :func:`read` gives for a row."""
    stems = [(_stem(encoder, kind), key) for kind, key in inputs]
    return sum(stem.widths[stem.keys.index(key)] for stem, key in stems)


def read(encoder: Encoder, inputs: Chosen, parts: Parts, like: Tensor) -> list[Tensor]:
    """The chosen inputs of all rows, each [B, its width]; zeros where a part lacks one."""
    found = []
    for kind, key in inputs:
        stem, pieces = _stem(encoder, kind), []
        for part in parts.values():
            some = next(iter(part.values()))
            piece = stem.find(key, part, like.dtype)
            if piece is None:
                piece = like.new_zeros(some.shape[0], stem.widths[stem.keys.index(key)])
            pieces.append(piece)
        found.append(torch.cat(pieces))
    return found


def _stem(encoder: Encoder, kind: str) -> Stem:
    assert isinstance(encoder, StemEncoder)
    stem = encoder.stems[kind]
    assert isinstance(stem, Stem)
    return stem
