"""Encodings: how the values of columns become the inputs of a network, fitted on training rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl

from plait.batch import Input
from plait.data.errors import DataError
from plait.data.hashing import Hashed
from plait.data.images import stack_images
from plait.data.profile import Profile, as_numbers, as_text
from plait.data.sequences import Ordered
from plait.data.sources import Chunk
from plait.data.stores import Array
from plait.data.text import Bag, Tokens
from plait.data.vectors import exploded, stack

if TYPE_CHECKING:
    from torch import Tensor

MOST_CATEGORIES = 10_000


def ranked(profile: Profile) -> list[str]:
    """The values of a column by frequency, the most frequent first."""
    counts = dict(profile.values or {})
    return sorted(counts, key=lambda value: (-counts[value], value))


@dataclass(frozen=True)
class View:
    """A chunk seen through the roles of its table."""

    chunk: Chunk
    roles: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.chunk)


class Encoding(Protocol):
    """One input of a network: what it reads, how rows are stored, how they are finished."""

    @property
    def input(self) -> Input: ...

    @property
    def roles(self) -> Sequence[str]: ...

    def encode(self, view: View) -> Array | tuple[Array, Array]:
        """The rows as they are stored."""
        ...

    @property
    def finish(self) -> Callable[[Tensor], Tensor] | None:
        """What turns stored rows into what a network reads."""
        ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Numeric:
    """Numbers, standardised; 0 where missing, indicators for columns that lack some in train."""

    roles: tuple[str, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]
    indicators: tuple[str, ...]

    @classmethod
    def fit(cls, profiles: Mapping[str, Profile], partial: set[str]) -> Numeric:
        """From the profiles of the numeric roles; ``partial`` are absent from some tables."""
        return cls(
            roles=tuple(profiles),
            center=tuple(float(each.mean[0]) for each in profiles.values()),
            scale=tuple(float(each.deviation[0]) for each in profiles.values()),
            indicators=tuple(
                role for role, each in profiles.items() if each.missing or role in partial
            ),
        )

    @property
    def input(self) -> Input:
        return Input(key="numeric", type="numeric", shape=(len(self.roles) + len(self.indicators),))

    def encode(self, view: View) -> Array:
        have = [place for place, role in enumerate(self.roles) if role in view.roles]
        found = as_numbers(view.chunk, [view.roles[self.roles[place]][0] for place in have])
        encoded = np.zeros((len(view), len(self.roles) + len(self.indicators)), dtype=np.float32)
        column = {self.roles[place]: number for number, place in enumerate(have)}
        for place, role in enumerate(self.indicators, len(self.roles)):
            encoded[:, place] = np.isnan(found[:, column[role]]) if role in column else 1.0
        found -= np.array(self.center)[have]
        found /= np.array(self.scale)[have]
        encoded[:, have] = np.nan_to_num(found, copy=False, nan=0.0)
        return encoded

    finish = None

    def to_json(self) -> dict[str, Any]:
        return {
            "roles": list(self.roles), "center": list(self.center), "scale": list(self.scale),
            "indicators": list(self.indicators),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Numeric:
        return cls(**{name: tuple(value) for name, value in data.items()})


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """Categories as codes from 1; 0 for what is missing, unknown in train, or too rare to keep."""

    roles: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    @classmethod
    def fit(cls, profiles: Mapping[str, Profile]) -> Categorical:
        """The values of each role by frequency, the most frequent first."""
        values = tuple(tuple(ranked(each)[:MOST_CATEGORIES]) for each in profiles.values())
        return cls(roles=tuple(profiles), values=values)

    @property
    def input(self) -> Input:
        sizes = tuple(len(values) + 1 for values in self.values)
        return Input(key="categorical", type="categorical", shape=(len(self.roles),), sizes=sizes)

    def encode(self, view: View) -> Array:
        found = np.zeros((len(view), len(self.roles)), dtype=np.int32)
        for place, (role, values) in enumerate(zip(self.roles, self.values, strict=True)):
            if role in view.roles and values:
                text = as_text(view.chunk.frame[view.roles[role][0]])
                codes = text.replace_strict(
                    pl.Series(values), pl.Series(range(1, len(values) + 1), dtype=pl.Int32),
                    default=0, return_dtype=pl.Int32,
                )  # fmt: skip
                found[:, place] = codes.fill_null(0).to_numpy()
        return found

    @property
    def finish(self) -> Callable[[Tensor], Tensor]:
        from plait.data.tensors import codes

        return codes

    def to_json(self) -> dict[str, Any]:
        return {"roles": list(self.roles), "values": [list(each) for each in self.values]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Categorical:
        return cls(roles=tuple(data["roles"]), values=tuple(tuple(each) for each in data["values"]))


@dataclass(frozen=True, kw_only=True)
class Text:
    """Texts as token numbers of differing counts."""

    role: str
    coding: Bag | Tokens
    size: int = field(default=0)

    @property
    def roles(self) -> Sequence[str]:
        return (self.role,)

    @property
    def input(self) -> Input:
        size = self.size or self.coding.size
        return Input(key=f"text.{self.role}", type="text", shape=(-1,), sizes=(size,))

    def encode(self, view: View) -> tuple[Array, Array]:
        columns = [view.chunk.frame[name] for name in view.roles[self.role]]
        return self.coding.encode(columns)

    finish = None

    def to_json(self) -> dict[str, Any]:
        name = "bag" if isinstance(self.coding, Bag) else "transformer"
        return {"role": self.role, name: self.coding.to_json(), "size": self.coding.size}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Text:
        coding: Bag | Tokens
        if "bag" in data:
            coding = Bag.from_json(data["bag"])
        else:
            coding = Tokens.from_json(data["transformer"])
        return cls(role=data["role"], coding=coding, size=data["size"])


@dataclass(frozen=True, kw_only=True)
class Image:
    """Images [C, H, W], brought to [0, 1] by ``top`` and then standardised per channel."""

    role: str
    shape: tuple[int, ...]
    top: float
    center: tuple[float, ...]
    scale: tuple[float, ...]

    @classmethod
    def fit(cls, role: str, profile: Profile) -> Image:
        """Bytes run to 255, other numbers to the largest in train where that is above 1."""
        top = 255.0 if profile.byte else max(profile.high, 1.0)
        return cls(
            role=role,
            shape=tuple(profile.shape),
            top=top,
            center=tuple((profile.mean / top).tolist()),
            scale=tuple((profile.deviation / top).tolist()),
        )

    @property
    def roles(self) -> Sequence[str]:
        return (self.role,)

    @property
    def input(self) -> Input:
        return Input(key=f"image.{self.role}", type="image", shape=self.shape)

    def encode(self, view: View) -> Array:
        images = stack_images(view.chunk, view.roles[self.role][0])
        if images.shape[1:] != self.shape:
            raise DataError(
                f"{view.chunk.table.place}: images of {self.role!r} are {images.shape[1:]}, "
                f"but {self.shape} in training"
            )
        return images if images.dtype == np.uint8 else images.astype(np.float32)

    @property
    def finish(self) -> Callable[[Tensor], Tensor]:
        from plait.data.tensors import Standardise

        return Standardise(self.top, self.center, self.scale)

    def to_json(self) -> dict[str, Any]:
        return {
            "role": self.role, "shape": list(self.shape), "top": self.top,
            "center": list(self.center), "scale": list(self.scale),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Image:
        listed = {name: tuple(data[name]) for name in ("shape", "center", "scale")}
        return cls(role=data["role"], top=data["top"], **listed)


@dataclass(frozen=True, kw_only=True)
class Items:
    """Lists of items as their numbers from 1, most frequent first; unknown ones are left out."""

    role: str
    values: tuple[str, ...]

    @classmethod
    def fit(cls, role: str, profile: Profile) -> Items:
        """The items of the training rows, the most frequent ``MOST_CATEGORIES`` of them."""
        return cls(role=role, values=tuple(ranked(profile)[:MOST_CATEGORIES]))

    @property
    def roles(self) -> Sequence[str]:
        return (self.role,)

    @property
    def input(self) -> Input:
        return Input(
            key=f"list.{self.role}", type="list", shape=(-1,), sizes=(len(self.values) + 1,)
        )

    def encode(self, view: View) -> tuple[Array, Array]:
        items, rows = exploded(view.chunk, view.roles[self.role][0])
        codes = items.replace_strict(
            pl.Series(self.values, dtype=pl.String),
            pl.Series(range(1, len(self.values) + 1), dtype=pl.Int32),
            default=0, return_dtype=pl.Int32,
        ).to_numpy()  # fmt: skip
        known = codes > 0
        lengths = np.bincount(rows[known], minlength=len(view))
        return lengths, codes[known]

    finish = None

    def to_json(self) -> dict[str, Any]:
        return {"role": self.role, "values": list(self.values)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Items:
        return cls(role=data["role"], values=tuple(data["values"]))


@dataclass(frozen=True, kw_only=True)
class Vector:
    """Vectors as they are."""

    role: str
    width: int

    @property
    def roles(self) -> Sequence[str]:
        return (self.role,)

    @property
    def input(self) -> Input:
        return Input(key=f"vector.{self.role}", type="vector", shape=(self.width,))

    def encode(self, view: View) -> Array:
        found = stack(view.chunk, view.roles[self.role][0]).reshape(len(view), -1)
        if found.shape[1] != self.width:
            raise DataError(
                f"{view.chunk.table.place}: {self.role!r} has {found.shape[1]} values, "
                f"but {self.width} in training"
            )
        wrong = np.flatnonzero(~np.isfinite(found).all(1))
        if len(wrong):
            where = view.chunk.table.where(int(view.chunk.rows[wrong[0]]))
            raise DataError(f"{where}: {self.role!r} holds NaN or infinite values")
        return found.astype(np.float32)

    finish = None

    def to_json(self) -> dict[str, Any]:
        return {"role": self.role, "width": self.width}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Vector:
        return cls(**data)


ENCODINGS: Mapping[str, Any] = {
    "numeric": Numeric,
    "categorical": Categorical,
    "hashed": Hashed,
    "text": Text,
    "image": Image,
    "vector": Vector,
    "list": Items,
    "sequence": Ordered,
}
