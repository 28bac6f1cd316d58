"""One encoder for each input type: what turns a column of inputs into numbers for the trunk.

A stem reads every input of its type. Inputs that a part lacks contribute zeros.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.batch import Input, Part
from plait.kinds import Place
from plait.method import MethodError
from plait.networks.base import Among, alike


class Stem(nn.Module):
    """Inputs of one type → [rows, width], the inputs side by side in the order of ``keys``.

    One that runs only some of the rows at a time does so within ``among(rows)``.
    """

    name: ClassVar[str]
    place: ClassVar[Place] = "row"  # the positions that it has vectors for, beside rows
    among: Among = staticmethod(alike)

    def __init__(self, inputs: Sequence[Input], widths: Sequence[int]) -> None:
        super().__init__()
        self.keys = tuple(found.key for found in inputs)
        self.widths = tuple(widths)
        self.width = sum(widths)

    @property
    def fields(self) -> list[int]:
        """The widths of what stands side by side in its output: inputs, or columns of them."""
        return list(self.widths)

    def encode(self, key: str, value: Tensor, dtype: torch.dtype) -> Tensor:
        """One input [rows, ...] → [rows, its width]."""
        raise NotImplementedError

    def states(self, key: str, value: Tensor, dtype: torch.dtype) -> Tensor:
        """One input [rows, ...] → a vector for each of its P positions, [rows, P, its width]."""
        raise NotImplementedError

    def grid(self, key: str, value: Tensor) -> Tensor:  # noqa: ARG002
        """Which positions the rows of one input have: bool [rows, ...], P in all."""
        return value != 0

    def labelled(self, part: Part) -> str | None:
        """The input of a part whose positions are meant; None where it has none."""
        return next((key for key in self.keys if key in part), None)

    def at_positions(self, part: Part, dtype: torch.dtype) -> Tensor | None:
        """A vector [rows, P, width] for each position of the part's input; None without one."""
        mine = self.labelled(part)
        if mine is None:
            return None
        states = self.states(mine, part[mine], dtype)
        return torch.cat(
            [
                states if key == mine else states.new_zeros(*states.shape[:2], width)
                for key, width in zip(self.keys, self.widths, strict=True)
            ],
            dim=2,
        )

    def forward(self, part: Part, dtype: torch.dtype) -> Tensor:
        """All the stem's inputs of a part → [rows, width]."""
        some = next(iter(part.values()))
        return torch.cat(
            [
                found if (found := self.find(key, part, dtype)) is not None
                else torch.zeros(len(some), width, dtype=dtype, device=some.device)
                for key, width in zip(self.keys, self.widths, strict=True)
            ],
            dim=1,
        )  # fmt: skip

    def find(self, key: str, part: Part, dtype: torch.dtype) -> Tensor | None:
        """One input of a part, encoded; None where the part lacks it."""
        return self.encode(key, part[key], dtype) if key in part else None

    def spec(self) -> dict[str, Any]:
        """The stem's settings as plain data."""
        return {}


class Plain(Stem):
    """Numbers and vectors as they are."""

    name = "plain"

    def __init__(self, inputs: Sequence[Input]) -> None:
        super().__init__(inputs, [found.width for found in inputs])
        self.single = {found.key for found in inputs if found.type == "numeric"}

    @property
    def fields(self) -> list[int]:
        """Each number by itself, vectors as wholes."""
        found = zip(self.keys, self.widths, strict=True)
        each = [[1] * width if key in self.single else [width] for key, width in found]
        return [width for some in each for width in some]

    def encode(self, key: str, value: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ARG002
        return value.to(dtype)


class Embedding(Stem):
    """A vector for each category; code 0, the unknown, starts at zero.

    ``width``: the vectors' width, or None for the power of two nearest above n^0.56 (at most 64).
    Columns of one width are looked up together in one table. ``sparse``: a step moves the rows that
    its batch looked up and no others, and its time does not grow with the table.
    """

    name = "embedding"

    def __init__(
        self, inputs: Sequence[Input], *, width: int | None = None, sparse: bool = False
    ) -> None:
        each = {found.key: [width or embedding_width(n) for n in found.sizes] for found in inputs}
        super().__init__(inputs, [sum(widths) for widths in each.values()])
        self.setting, self.sparse = width, sparse
        self.tables = nn.ModuleList()
        self.plan: dict[str, list[tuple[int, list[int]]]] = {}
        for found in inputs:
            self.plan[found.key] = []
            for size in sorted(set(each[found.key])):
                columns = [i for i, w in enumerate(each[found.key]) if w == size]
                starts = _starts([found.sizes[i] for i in columns])
                table = nn.Embedding(starts.pop(), size, sparse=sparse)
                nn.init.normal_(table.weight, std=size**-0.5)
                table.weight.data[starts] = 0.0
                self.register_buffer(f"starts{len(self.tables)}", torch.tensor(starts), False)
                self.plan[found.key].append((len(self.tables), columns))
                self.tables.append(table)

    @property
    def fields(self) -> list[int]:
        """A column of categories each, in the order of the output."""
        widths = [t.embedding_dim for t in self.tables if isinstance(t, nn.Embedding)]
        plans = [plan for key in self.keys for plan in self.plan[key]]
        return [widths[number] for number, columns in plans for _ in columns]

    def encode(self, key: str, value: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ARG002
        found = []
        for number, columns in self.plan[key]:
            codes = value[:, columns] + self.get_buffer(f"starts{number}")
            found.append(self.tables[number](codes).flatten(1))
        return torch.cat(found, dim=1)

    def spec(self) -> dict[str, Any]:
        return {"width": self.setting} | ({"sparse": True} if self.sparse else {})


def embedding_width(size: int) -> int:
    """The width for a category of that many codes.

    >>> [embedding_width(n) for n in (2, 10, 100, 10_000, 1_000_000)]
    [2, 4, 16, 64, 64]
    """
    return int(min(64, 2 ** math.ceil(math.log2(max(2, size) ** 0.56))))


def _starts(sizes: Sequence[int]) -> list[int]:
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    return starts


class Bag(Stem):
    """The mean of the vectors of a text's tokens, padding (0) left out; no order.

    Texts whose tokens are numbered alike share one table. How texts become tokens is settled where
    the data are prepared, which reads ``buckets``, ``characters``, ``most`` and ``prose`` from the
    same place in a study (see ``plait.data.text``); here they only are accepted.
    """

    name = "bag"

    def __init__(
        self,
        inputs: Sequence[Input],
        *,
        width: int = 64,
        buckets: int | None = None,
        characters: Sequence[int] | None = None,
        most: int | None = None,
        prose: bool | None = None,
    ) -> None:
        del buckets, characters, most, prose
        super().__init__(inputs, [width] * len(inputs))
        self.tables = nn.ModuleList()
        self.table_of: dict[str, int] = {}
        for size in sorted({found.sizes[0] for found in inputs}):
            table = nn.EmbeddingBag(size, width, mode="mean", padding_idx=0)
            nn.init.normal_(table.weight, std=width**-0.5)
            table.weight.data[0] = 0.0
            self.table_of |= {f.key: len(self.tables) for f in inputs if f.sizes[0] == size}
            self.tables.append(table)
        self.stacked = False  # set where one such bag runs for many tasks under vmap

    def encode(self, key: str, value: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ARG002
        table = self.tables[self.table_of[key]]
        if self.stacked:
            weight: Any = table.weight  # under vmap a slice of a stack, no parameter
            return stacked_bag(value, weight)
        found: Tensor = table(value)
        return found

    def spec(self) -> dict[str, Any]:
        return {"width": self.widths[0]}


def stacked_bag(tokens: Tensor, table: Tensor) -> Tensor:
    """The mean of the tokens' vectors, under ``torch.vmap``; 0 is left out."""
    found: Tensor = _Stacked.apply(tokens, table)  # type: ignore[no-untyped-call]
    return found


class _Stacked(torch.autograd.Function):
    """The batching rule that ``embedding_bag`` lacks: T tables are one table of T·size rows."""

    @staticmethod
    def forward(tokens: Tensor, table: Tensor) -> Tensor:
        return F.embedding_bag(tokens, table, mode="mean", padding_idx=0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None: ...

    @staticmethod
    def vmap(
        info: Any, dims: tuple[int | None, int | None], tokens: Tensor, table: Tensor
    ) -> tuple[Tensor, int]:
        size = info.batch_size
        tokens, table = (
            found.expand(size, *found.shape) if dim is None else found.movedim(dim, 0)
            for found, dim in zip((tokens, table), dims, strict=True)
        )
        starts = torch.arange(size, device=tokens.device) * table.shape[1]
        moved = torch.where(tokens == 0, 0, tokens + starts[:, None, None])
        bags = F.embedding_bag(moved.flatten(0, 1), table.flatten(0, 1), mode="mean", padding_idx=0)
        return bags.view(*tokens.shape[:2], -1), 0


class Cnn(Stem):
    """A small convolutional network: ``depth`` times 3×3, halving and ReLU, then flattened.

    ``channels`` after the first block, doubled by each further one. Images that are still larger
    than 8×8 are averaged down to it. Images of one shape share one network.
    """

    name = "cnn"

    def __init__(self, inputs: Sequence[Input], *, channels: int = 16, depth: int = 2) -> None:
        nets = {found.shape: _cnn(found.shape, channels, depth) for found in inputs}
        super().__init__(inputs, [nets[found.shape][1] for found in inputs])
        self.channels, self.depth = channels, depth
        self.nets = nn.ModuleList([net for net, _ in nets.values()])
        self.net_of = {found.key: list(nets).index(found.shape) for found in inputs}

    def encode(self, key: str, value: Tensor, dtype: torch.dtype) -> Tensor:
        found: Tensor = self.nets[self.net_of[key]](value.to(dtype))
        return found

    def spec(self) -> dict[str, Any]:
        return {"channels": self.channels, "depth": self.depth}


def _cnn(shape: tuple[int, ...], channels: int, depth: int) -> tuple[nn.Sequential, int]:
    inside, height, width = shape
    layers: list[nn.Module] = []
    for block in range(depth):
        outside = channels * 2**block
        layers.append(nn.Conv2d(inside, outside, 3, padding=1))
        inside = outside
        if min(height, width) > 1:  # before the ReLU, which gives the same and has less to do
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        layers.append(nn.ReLU())
    if max(height, width) > 8:
        height, width = min(height, 8), min(width, 8)
        layers.append(nn.AdaptiveAvgPool2d((height, width)))
    return nn.Sequential(*layers, nn.Flatten()), inside * height * width


class Foreign(Stem):
    """Any module, by ``package.module:Class``: each input's tensor [rows, ...] → [rows, width].

    The width is found by encoding two blank rows.
    """

    name = "module"

    def __init__(
        self, inputs: Sequence[Input], *, module: str, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.source, self.given = module, dict(settings or {})
        made = load_module(module, self.given)
        super().__init__(inputs, [_blank_width(made, found) for found in inputs])
        self.module = made

    def encode(self, key: str, value: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ARG002
        found: Tensor = self.module(value.to(dtype) if value.is_floating_point() else value)
        return found

    def spec(self) -> dict[str, Any]:
        return {"module": self.source, "settings": self.given}


def load_module(source: str, settings: Mapping[str, Any], **offered: Any) -> nn.Module:
    """Make a user's module from ``package.module:Class``, with ``offered`` where it takes them.

    Raises :class:`MethodError` where it cannot be imported, is no ``nn.Module`` or refuses the
    settings.
    """
    path, _, name = source.partition(":")
    try:
        cls = getattr(importlib.import_module(path), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise MethodError(f"cannot load the module {source!r}: {error}", ("module",)) from error
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise MethodError(f"{source!r} is not a torch.nn.Module class", ("module",))
    try:
        taken = inspect.signature(cls).parameters
        return cls(**{k: v for k, v in offered.items() if k in taken}, **settings)
    except TypeError as error:
        raise MethodError(f"{source!r}: {error}", ("settings",)) from error


def _blank_width(module: nn.Module, found: Input) -> int:
    longest = tuple(8 if size < 0 else size for size in found.shape)
    whole = found.whole
    blank = torch.zeros(2, *longest, dtype=torch.long if whole else torch.get_default_dtype())
    return blank_width(module, blank, f"{found.key} {tuple(blank.shape)}")


def blank_width(module: nn.Module, blank: Any, what: str) -> int:
    """The width of a module's output on two blank rows; ``MethodError`` unless it is [2, width]."""
    training = module.training
    module.eval()
    with torch.no_grad():
        found = module(blank)
    module.train(training)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        message = f"the module must give [rows, width] for {what}, got {shape}"
        raise MethodError(message, ("module",))
    return int(found.shape[1])
