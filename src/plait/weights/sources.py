"""Sources: where a model's tensors come from, read block by block.

A source lists its sites without reading a tensor, and reads any run of values of any of them. A
source whose tensors are *relative* (a LoRA adapter) reads differences to the base instead, so that
they are exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from plait.weights.kinds import STORED, kind_of, widen
from plait.weights.sites import Site

Array = np.ndarray[Any, Any]
State = Mapping[str, Array]  # tensors by name, as a checkpoint stores them


class Source(ABC):
    """The tensors of one model.

    ``sites`` are its tensors by name, tied ones by the first of their names, ``names`` the site of
    every name. Where ``partial``, a tensor that is not listed is the base's; where ``relative``,
    values are differences to the base's.
    """

    partial: bool = False

    def __init__(self, sites: Iterable[Site]) -> None:
        self.sites = {site.name: site for site in sites}
        self.names = {n: site for site in self.sites.values() for n in (site.name, *site.aliases)}

    @abstractmethod
    def stored(self, name: str, start: int, stop: int) -> Array:
        """Values ``start`` to ``stop`` of a tensor, flat, as its type stores them."""

    def read(self, name: str, start: int, stop: int, out: Array) -> None:
        """Write values ``start`` to ``stop`` of a floating tensor, flat, into ``out``."""
        widen(self.stored(name, start, stop), self.names[name].kind, out)

    def relative(self, name: str) -> bool:  # noqa: ARG002
        """Whether the values of a tensor are differences to the base's."""
        return False

    def nonfinite(self) -> Iterator[str]:
        """Tensors with NaN or infinite values, as far as that is known before they are read."""
        yield from ()


class Arrays(Source):
    """A model in memory: arrays by name.

    ``bfloat16`` names tensors whose arrays (uint16) hold the bits of bfloat16 values. Names whose
    arrays are one and the same are tied: the first is the site, the others its aliases.
    Raises ``TypeError`` naming the tensor whose type no checkpoint stores.
    """

    def __init__(self, state: State, bfloat16: frozenset[str] = frozenset()) -> None:
        first: dict[tuple[Any, ...], str] = {}
        tied: dict[str, list[str]] = {}
        for name, array in state.items():
            place = array.__array_interface__
            same = (place["data"], place["strides"], array.shape, array.dtype)
            owner = first.setdefault(same, name) if array.size else name
            tied.setdefault(owner, []).append(name)
        self._flat: dict[str, Array] = {}
        sites = []
        for owner, (_, *others) in tied.items():
            array = state[owner]
            try:
                kind = "BF16" if owner in bfloat16 else kind_of(array)
            except TypeError as error:
                raise TypeError(f"{owner!r}: {error}") from error
            sites.append(Site(name=owner, shape=array.shape, kind=kind, aliases=tuple(others)))
            flat = array.astype(STORED[kind], copy=False).reshape(-1)
            self._flat |= dict.fromkeys(tied[owner], flat)
        super().__init__(sites)

    def stored(self, name: str, start: int, stop: int) -> Array:
        """Values of an array, flat, row by row."""
        return self._flat[name][start:stop]

    def nonfinite(self) -> Iterator[str]:
        """Tensors with NaN or infinite values."""
        for name, site in self.sites.items():
            if site.floating:
                values = np.empty(site.size, site.working)
                self.read(name, 0, site.size, values)
                if not np.isfinite(values).all():
                    yield name


def as_source(model: Source | State) -> Source:
    """A source as it is, arrays by name as a source."""
    return model if isinstance(model, Source) else Arrays(model)
