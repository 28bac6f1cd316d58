"""Cells: what a study computes, as a graph whose nodes are named by what they depend on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Self

from plait.comparing.plan import Plan
from plait.comparing.strategy import Strategy
from plait.method import spell

FORMAT = 1  # raised when the same description would give another result


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One strategy with one seed on one split of the rows.

    ``key`` is the hash of the data, the plan, the strategy, the seed and the keys of its parts: two
    studies that need the same thing compute it once.
    """

    key: str
    strategy: Strategy
    plan: Plan
    seed: int = 0
    parts: Mapping[str, Cell] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """The cell as plain data, kept in its folder."""
        return {
            "key": self.key,
            "strategy": spell(self.strategy),
            "words": self.strategy.words(),
            "seed": self.seed,
            "data": self.plan.fingerprint,
            "parts": {name: part.key for name, part in self.parts.items()},
            **self.plan.settings(),
        }

    def ancestors(self) -> Iterator[Cell]:
        """The parts of the cell and theirs, those needed first coming first; repeats possible."""
        for part in self.parts.values():
            yield from part.ancestors()
            yield part


@dataclass(frozen=True)
class Shard:
    """One of several shares of a study's cells, counted from 1: ``3/50``."""

    number: int
    of: int

    @classmethod
    def read(cls, text: str) -> Self:
        """Read ``3/50``; ``ValueError`` for anything else."""
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise ValueError(f"no shard {text!r}; write 3/50 for the third of fifty")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def has(self, position: int) -> bool:
        """Whether the cell at a position of the study's order is in it."""
        return position % self.of == self.number - 1


def make(plan: Plan, strategy: Strategy, seed: int) -> Cell:
    """The cell of a strategy, with the cells it requires."""
    required = strategy.requires(plan)
    parts = {name: make(plan, part, seed) for name, part in required.items()}
    seed = seed if strategy.random(plan) or parts else 0
    told = {
        "format": FORMAT,
        "data": plan.fingerprint,
        "strategy": spell(strategy),
        "seed": seed,
        "parts": {name: part.key for name, part in parts.items()},
        **({} if strategy.baseline else plan.settings()),
    }
    text = json.dumps(told, sort_keys=True, ensure_ascii=False)
    key = blake2b(text.encode(), digest_size=10).hexdigest()
    return Cell(key=key, strategy=strategy, plan=plan, seed=seed, parts=parts)


def ordered(cells: Iterable[Cell]) -> list[Cell]:
    """All cells with their parts, each once, parts before what needs them."""
    found: dict[str, Cell] = {}
    for cell in cells:
        for part in (*cell.ancestors(), cell):
            found.setdefault(part.key, part)
    return list(found.values())
