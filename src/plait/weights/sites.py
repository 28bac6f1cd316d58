"""Tensor sites: the places that a checkpoint has a tensor at, by name, with what names tell.

The *depth* of a site is the number of the repeated block it stands in: the first number in its
name (``model.layers.3.mlp.up.weight`` has depth 3), or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from plait.weights.kinds import FLOATING, SIZES, WORDS, working


@dataclass(frozen=True, kw_only=True)
class Site:
    """One named tensor: merged where it holds floats, copied where it holds integers or bools.

    ``kind`` is the type its values are stored in, by its name in safetensors. ``aliases`` are other
    names of the same tensor (tied weights): it is merged once.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    aliases: tuple[str, ...] = ()

    @property
    def floating(self) -> bool:
        return self.kind in FLOATING

    @property
    def size(self) -> int:
        """The number of values."""
        return prod(self.shape)

    @property
    def width(self) -> int:
        """The length of a row: of the last axis, of the whole where there is one axis or none."""
        return self.shape[-1] if len(self.shape) > 1 else self.size

    @property
    def bytes(self) -> int:
        """What it takes when stored."""
        return self.size * SIZES[self.kind]

    @property
    def working(self) -> np.dtype[Any]:
        """The type sums are formed in: float32 for anything smaller, rounded once at the end."""
        return working(self.kind)

    @property
    def depth(self) -> int | None:
        """The number of the block it stands in."""
        return next((int(part) for part in self.name.split(".") if part.isdecimal()), None)

    @property
    def words(self) -> str:
        """Type and shape as a message says them."""
        return f"{WORDS.get(self.kind, self.kind)} {list(self.shape)}"
