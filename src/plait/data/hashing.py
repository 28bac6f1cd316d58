"""Ids of many values: hashed into buckets, so that none is unknown and no list of them is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plait.batch import Input
from plait.data.errors import DataError
from plait.data.profile import Profile, as_text
from plait.data.stores import Array
from plait.data.text import fingerprints

if TYPE_CHECKING:
    from torch import Tensor

LEAST, MOST = 2**10, 2**17  # buckets where none are asked for


@dataclass(frozen=True, kw_only=True)
class Hashed:
    """A value as its bucket, from 1; 0 for what is missing. Values never become numbers.

    Values of one bucket share a vector. Of n values, about n / (2 · ``buckets``) share one with
    another; a value that training did not show has the vector of whichever it meets.
    """

    role: str
    buckets: int

    @classmethod
    def fit(cls, role: str, profile: Profile, buckets: int | None) -> Hashed:
        """As many buckets as asked for, or a power of two, twice as many as training values."""
        enough = 2 ** max(2 * profile.distinct - 1, 0).bit_length()
        return cls(role=role, buckets=buckets or min(max(enough, LEAST), MOST))

    @property
    def roles(self) -> Sequence[str]:
        return (self.role,)

    @property
    def input(self) -> Input:
        sizes = (self.buckets + 1,)
        return Input(key=f"hashed.{self.role}", type="hashed", shape=(1,), sizes=sizes)

    def encode(self, view: Any) -> Array:
        text = as_text(view.chunk.frame[view.roles[self.role][0]])
        found = (fingerprints(text) % np.uint64(self.buckets)).astype(np.int32) + 1
        found[text.is_null().to_numpy()] = 0
        return found[:, None]

    @property
    def finish(self) -> Callable[[Tensor], Tensor]:
        from plait.data.tensors import codes

        return codes

    def to_json(self) -> dict[str, Any]:
        return {"role": self.role, "buckets": self.buckets}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Hashed:
        return cls(**data)


def check_buckets(place: str, buckets: Mapping[str, int]) -> None:
    """Refuse numbers of buckets that are none."""
    for name, count in buckets.items():
        if type(count) is not int or not 0 < count < 2**31 - 1:
            raise DataError(
                f"{place}: buckets of {name!r} must be a whole number from 1, got {count!r}"
            )
