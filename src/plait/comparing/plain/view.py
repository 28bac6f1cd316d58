"""Encoded inputs as one table of numbers, for estimators that know nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import scipy.sparse
import torch

from plait.batch import Input, Part, Parts
from plait.networks.network import inputs_from_json, inputs_to_json

Array = np.ndarray[Any, Any]
Table = Any  # an array [B, F] or a scipy CSR matrix of that shape, float32
RARE = 3  # a token must stand in so many rows to become a column


@dataclass(frozen=True, kw_only=True)
class View:
    """Which columns the inputs become, in the order of ``inputs``.

    Text becomes the logarithm of 1 + counts of the tokens in ``tokens``, categories become one
    column each, or with ``codes`` one column of codes. An input that a part lacks is zero there.
    """

    inputs: tuple[Input, ...]
    codes: bool = False
    tokens: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, inputs: Mapping[str, Input], parts: Parts, *, codes: bool, most: int) -> Self:
        """The view of these inputs, with the ``most`` frequent tokens of each text in the parts."""
        chosen = tuple(inputs.values())
        worded = [each for each in chosen if each.worded]
        tokens = {each.key: _frequent(parts, each, most) for each in worded}
        return cls(inputs=chosen, codes=codes, tokens=tokens)

    @property
    def sparse(self) -> bool:
        """Whether the table is a sparse matrix."""
        wide = any(sum(each.sizes) > 256 for each in self.inputs if each.coded)
        return bool(self.tokens) or (wide and not self.codes)

    @property
    def categories(self) -> list[int]:
        """The columns that hold codes."""
        found: list[int] = []
        start = 0
        for each in self.inputs:
            width = self._width(each)
            if each.type == "categorical" and self.codes:
                found += range(start, start + width)
            start += width
        return found

    def table(self, parts: Parts) -> Table:
        """The rows of the parts, one after another. [B, F]"""
        tables = [self._part(part) for part in parts.values()]
        if self.sparse:
            return scipy.sparse.vstack(tables, format="csr")
        return np.concatenate(tables)

    def to_json(self) -> dict[str, Any]:
        """Plain data that :meth:`from_json` reads back."""
        return {
            "inputs": inputs_to_json({each.key: each for each in self.inputs}),
            "codes": self.codes,
            "tokens": {key: list(found) for key, found in self.tokens.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read :meth:`to_json` back."""
        inputs = inputs_from_json(data["inputs"])
        return cls(inputs=tuple(inputs.values()), codes=data["codes"], tokens=data["tokens"])

    def _width(self, each: Input) -> int:
        if each.worded:
            return len(self.tokens[each.key])
        if each.coded:
            return len(each.sizes) if self.codes else sum(each.sizes)
        return int(np.prod(each.shape))

    def _part(self, part: Part) -> Table:
        rows = len(next(iter(part.values())))
        columns = [self._columns(each, part.get(each.key), rows) for each in self.inputs]
        if self.sparse:
            return scipy.sparse.hstack(columns, format="csr", dtype=np.float32)
        return np.concatenate([np.zeros((rows, 0)), *columns], axis=1, dtype=np.float32)

    def _columns(self, each: Input, values: torch.Tensor | None, rows: int) -> Table:
        if values is None:
            return np.zeros((rows, self._width(each)), np.float32)
        found = values.numpy()
        if each.worded:
            return self._counts(found, self.tokens[each.key], each.sizes[0])
        if each.coded and not self.codes:
            return self._one_hot(found, each.sizes)
        return found.reshape(rows, -1).astype(np.float32, copy=False)

    def _counts(self, numbers: Array, tokens: Sequence[int], size: int) -> Table:
        place = np.full(size, -1, np.int64)
        place[list(tokens)] = np.arange(len(tokens))
        column = place[numbers]
        row, at = np.nonzero(column >= 0)
        ones = np.ones(len(row), np.float32)
        counts = scipy.sparse.csr_matrix(
            (ones, (row, column[row, at])), shape=(len(numbers), len(tokens))
        )
        counts.sum_duplicates()
        counts.data = np.log1p(counts.data)
        return counts

    def _one_hot(self, codes: Array, sizes: Sequence[int]) -> Table:
        start = np.cumsum([0, *sizes[:-1]])
        rows, columns = codes.shape
        where = (np.repeat(np.arange(rows), columns), (codes + start).ravel())
        ones = np.ones(rows * columns, np.float32)
        found = scipy.sparse.csr_matrix((ones, where), shape=(rows, sum(sizes)))
        return found if self.sparse else found.toarray()


def _frequent(parts: Parts, each: Input, most: int) -> list[int]:
    """The tokens that stand in the most rows; padding (0) is none."""
    rows = np.zeros(each.sizes[0], np.int64)
    for part in parts.values():
        if each.key in part:
            numbers = np.sort(part[each.key].numpy(), axis=1)
            first = np.ones(numbers.shape, bool)
            first[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
            rows += np.bincount(numbers[first], minlength=len(rows))
    rows[0] = 0
    order = np.argsort(-rows, kind="stable")[:most]
    return sorted(order[rows[order] >= RARE].tolist())
