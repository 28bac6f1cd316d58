"""Sets of fitted estimators by name, saved without pickle and predicted from tables of numbers."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse

from plait.comparing.plain.view import Array, Table
from plait.task import Task
from plait.weights.files import DamagedError, read_json, write_atomic, write_json
from plait.weights.states import read_state, write_state

SMALL = 5_000_000  # numbers in a table of which another thread saves a fraction of a second


class Estimators(ABC):
    """Fitted estimators by name.

    Predictions are the probability of the positive class [N], class probabilities [N, C], the
    standardised mean [N] or the rate [N], by the kind of the task.
    """

    kind: ClassVar[str]

    @abstractmethod
    def predict(self, name: str, task: Task, table: Table) -> Array:
        """The predictions of one estimator; ``task`` says which kind and how many classes."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write all of them."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read them back."""

    @abstractmethod
    def parameters(self) -> float:
        """How many numbers were learnt."""


@dataclass(frozen=True)
class Constants(Estimators):
    """The same prediction for every row: a share per class, a mean or a rate."""

    kind: ClassVar[str] = "constant"
    values: Mapping[str, Sequence[float]]

    def predict(self, name: str, task: Task, table: Table) -> Array:
        value = np.asarray(self.values[name])
        if task.named:
            return np.tile(value, (table.shape[0], 1))
        return np.full(table.shape[0], value[-1])

    def save(self, folder: Path) -> None:
        write_json(folder / "constants.json", {k: list(v) for k, v in self.values.items()})

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(read_json(folder / "constants.json"))

    def parameters(self) -> float:
        return float(sum(len(value) for value in self.values.values()))


@dataclass(frozen=True)
class Linears(Estimators):
    """One linear map per name: weights [outputs, F] and intercepts [outputs].

    The map is followed by the link of the task's kind. Classes never seen have intercept -inf,
    stored as the lowest finite number.
    """

    kind: ClassVar[str] = "linear"
    weights: Mapping[str, Array]
    intercepts: Mapping[str, Array]

    def predict(self, name: str, task: Task, table: Table) -> Array:
        raw: Array = np.asarray(table @ self.weights[name].T) + self.intercepts[name]
        match task.kind:
            case "binary":
                found: Array = 1 / (1 + np.exp(-np.clip(raw[:, 0], -500, 500)))
            case "classes" | "ordinal":
                raw = raw - raw.max(1, keepdims=True)
                shares: Array = np.exp(raw)
                found = shares / shares.sum(1, keepdims=True)
            case "counts":
                found = np.exp(np.clip(raw[:, 0], -50, 50))
            case _:
                found = raw[:, 0]
        return found

    def save(self, folder: Path) -> None:
        state = {f"weight.{name}": value for name, value in self.weights.items()}
        state |= {f"intercept.{name}": value for name, value in self.intercepts.items()}
        write_state(folder / "linear.safetensors", state)

    @classmethod
    def load(cls, folder: Path) -> Self:
        found: dict[str, dict[str, Array]] = {"weight": {}, "intercept": {}}
        for name, value in read_state(folder / "linear.safetensors").items():
            part, _, whose = name.partition(".")
            found[part][whose] = value
        return cls(found["weight"], found["intercept"])

    def parameters(self) -> float:
        return float(sum(v.size for v in (*self.weights.values(), *self.intercepts.values())))


PAIRS = 1 << 20  # pairs of row and tree followed at once


@dataclass(frozen=True)
class Trees:
    """The trees of one forest, their nodes one after another.

    ``left``, ``right`` [nodes] are the children (-1: a leaf), ``feature`` and ``threshold`` [nodes]
    the test (at most: left), ``value`` [nodes, outputs] what a leaf says, ``roots`` [trees].
    """

    left: Array
    right: Array
    feature: Array
    threshold: Array
    value: Array
    roots: Array

    @classmethod
    def of(cls, forest: Any, classes: int) -> Self:
        """The trees of a fitted forest of scikit-learn; classes it never saw get no share."""
        trees = [each.tree_ for each in forest.estimators_]
        counts = [tree.node_count for tree in trees]
        roots = np.cumsum([0, *counts[:-1]])
        first = np.repeat(roots, counts)  # the root of each node's tree
        left = np.concatenate([tree.children_left for tree in trees])
        right = np.concatenate([tree.children_right for tree in trees])
        value = np.concatenate([tree.value[:, 0, :] for tree in trees])
        if classes:
            full = np.zeros((len(value), classes))
            full[:, np.asarray(forest.classes_, dtype=int)] = value
            value = full
        return cls(
            left=np.where(left < 0, -1, left + first).astype(np.int32),
            right=np.where(right < 0, -1, right + first).astype(np.int32),
            feature=np.concatenate([tree.feature for tree in trees]).astype(np.int32),
            threshold=np.concatenate([tree.threshold for tree in trees]),
            value=value,
            roots=roots.astype(np.int32),
        )

    def check(self, path: Path) -> None:
        """Refuse nodes that point outside, or back, which would never end."""
        here = np.arange(len(self.left))
        inner = self.left >= 0
        sound = (
            len({len(getattr(self, each.name)) for each in fields(self)[:5]}) == 1
            and bool(((self.right >= 0) == inner).all())
            and bool((self.left[inner] > here[inner]).all())
            and bool((self.right[inner] > here[inner]).all())
            and max(self.left.max(), self.right.max(), self.roots.max()) < len(self.left)
            and bool((self.feature[inner] >= 0).all() and (self.roots >= 0).all())
        )
        if not sound:
            raise DamagedError(f"{path}: a tree of the forest points outside itself")

    def predict(self, table: Table) -> Array:
        """The mean over trees of the leaves that rows fall into. [n, outputs]"""
        rows = max(1, PAIRS // len(self.roots))
        starts = range(0, table.shape[0], rows)
        return np.concatenate([self._mean(table[start : start + rows]) for start in starts])

    def _mean(self, table: Table) -> Array:
        numbers = table.toarray() if scipy.sparse.issparse(table) else np.asarray(table)
        node = np.tile(self.roots, (len(numbers), 1))
        row, tree = np.nonzero(self.left[node] >= 0)
        while len(row):
            at = node[row, tree]
            goes_left = numbers[row, self.feature[at]] <= self.threshold[at]
            at = np.where(goes_left, self.left[at], self.right[at])
            node[row, tree] = at
            inner = self.left[at] >= 0
            row, tree = row[inner], tree[inner]
        mean: Array = self.value[node].mean(1)
        return mean


@dataclass(frozen=True)
class Forests(Estimators):
    """Random forests, kept as arrays: small, quick to write, and nothing in them can run."""

    kind: ClassVar[str] = "forest"
    forests: Mapping[str, Trees]

    def predict(self, name: str, task: Task, table: Table) -> Array:
        found = self.forests[name].predict(table)
        match task.kind:
            case "classes" | "ordinal":
                return found
            case "binary":
                return found[:, 1]
        return found[:, 0]

    def save(self, folder: Path) -> None:
        state = {
            f"{each.name}.{name}": getattr(trees, each.name)
            for name, trees in self.forests.items()
            for each in fields(trees)
        }
        write_state(folder / "forests.safetensors", state)

    @classmethod
    def load(cls, folder: Path) -> Self:
        path = folder / "forests.safetensors"
        found: dict[str, dict[str, Array]] = {}
        for key, value in read_state(path).items():
            part, _, name = key.partition(".")
            found.setdefault(name, {})[part] = value
        forests = {name: Trees(**arrays) for name, arrays in found.items()}
        for trees in forests.values():
            trees.check(path)
        return cls(forests)

    def parameters(self) -> float:
        total = 0
        for trees in self.forests.values():
            leaves = int((trees.left < 0).sum())
            total += 2 * (len(trees.left) - leaves) + leaves * trees.value.shape[1]
        return float(total)


@dataclass(frozen=True)
class Boosters(Estimators):
    """Boosted trees of LightGBM, saved as its text."""

    kind: ClassVar[str] = "boosting"
    boosters: Mapping[str, Any]

    def predict(self, name: str, task: Task, table: Table) -> Array:  # noqa: ARG002
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Array = np.asarray(
                self.boosters[name].predict(table, num_threads=threads_for(table))
            )
        return found

    def save(self, folder: Path) -> None:
        names = {}
        for number, (name, booster) in enumerate(self.boosters.items()):
            names[name] = f"booster-{number}.txt"
            write_atomic(folder / names[name], booster.model_to_string().encode())
        write_json(folder / "boosters.json", names)

    @classmethod
    def load(cls, folder: Path) -> Self:
        lightgbm = load_lightgbm()
        names = read_json(folder / "boosters.json")
        wrong = [file for file in names.values() if Path(file).name != file]
        if wrong:
            raise DamagedError(f"{folder}: not plain file names: {wrong}")
        texts = {name: (folder / file).read_text("utf-8") for name, file in names.items()}
        return cls({name: lightgbm.Booster(model_str=text) for name, text in texts.items()})

    def parameters(self) -> float:
        total = 0
        for booster in self.boosters.values():
            trees = booster.dump_model()["tree_info"]
            leaves = sum(tree["num_leaves"] for tree in trees)
            total += leaves + 2 * (leaves - len(trees))
        return float(total)


KINDS: Mapping[str, type[Estimators]] = {
    cls.kind: cls for cls in (Constants, Linears, Forests, Boosters)
}


def threads() -> int:
    """How many threads this process may use."""
    import torch

    return torch.get_num_threads()


def threads_for(table: Table) -> int:
    """How many threads a solver over a table is given: one for a small table.

    The threads of LightGBM and of BLAS wait for one another busily, many times a second: on a small
    table that costs more than it saves, and where other work shares the cores a hundred times as
    much.
    """
    return threads() if table.size >= SMALL else 1


def load_lightgbm() -> Any:
    """The LightGBM library; ``ValueError`` with the pip line where it is not installed."""
    try:
        import lightgbm
    except ImportError:
        raise ValueError("boosting needs LightGBM: pip install 'plait[boost]'") from None
    return lightgbm
