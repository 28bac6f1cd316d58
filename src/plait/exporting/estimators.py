"""Plain estimators as ONNX nodes: constants, linear maps, forests and boosted trees."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from plait.batch import Input
from plait.comparing.plain.estimators import Boosters, Constants, Forests, Linears, Trees
from plait.comparing.plain.model import EstimatorModel, Pool
from plait.exporting.check import Array, ExportError
from plait.exporting.graph import Graph
from plait.exporting.trees import Ensemble, of_booster, of_forest
from plait.task import Task


def estimators(
    graph: Graph, model: EstimatorModel, encoded: Mapping[str, str], tasks: Mapping[str, Task]
) -> dict[str, str]:
    """Add a model of plain estimators to a graph; returns the names of the tasks' predictions."""
    builder = _Builder(graph, model, encoded)
    found = {}
    for pool in model.pools:
        for number, name in enumerate(pool.tasks):
            if name in tasks:
                found[name] = builder.task(pool, number, tasks[name])
    return found


class _Builder:
    """One model's nodes; the table of inputs and the trees of a pool are made once."""

    def __init__(self, graph: Graph, model: EstimatorModel, encoded: Mapping[str, str]) -> None:
        self.graph = graph
        self.model = model
        self.encoded = dict(encoded)
        self.rows = graph.add("Shape", next(iter(encoded.values())), start=0, end=1)
        self.made: dict[str, str] = {}

    def task(self, pool: Pool, number: int, task: Task) -> str:
        """One task's predictions as users see them."""
        fitted = self.model.fitted
        if isinstance(fitted, Constants):
            same = self._constant(task, fitted.values[pool.name])
            return self._units(pool, number, task, same)
        if isinstance(fitted, Linears):
            raw = self._linear(pool, number, fitted)
            return self._units(pool, number, task, self._linked(task, raw))
        trees = self._trees(pool, task, fitted)
        found = trees
        if len(pool.tasks) > 1:
            found = self.graph.add("Gather", trees, self._number(number), axis=0)
        if isinstance(fitted, Forests):
            match task.kind:
                case "classes" | "ordinal":
                    return found
                case "binary":
                    return self.graph.add("Gather", found, self._number(1), axis=1)
            found = self.graph.add("Gather", found, self._number(0), axis=1)
            return self._units(pool, number, task, found)
        return self._units(pool, number, task, self._linked(task, found))

    def _number(self, value: int) -> str:
        return self.graph.constant(value, np.int64)

    def _constant(self, task: Task, value: Sequence[float]) -> str:
        if task.named:
            wide = self.graph.add("Concat", self.rows, self._size(len(value)), axis=0)
            return self.graph.add("Expand", self.graph.constant([list(value)], np.float64), wide)
        return self.graph.add("Expand", self.graph.constant([value[-1]], np.float64), self.rows)

    def _size(self, *sizes: int) -> str:
        return self.graph.constant(list(sizes), np.int64)

    def _units(self, pool: Pool, number: int, task: Task, value: str) -> str:
        if task.kind != "real":
            return value
        center, scale = pool.units[number]
        wide = self.graph.add("Cast", value, to=_DOUBLE)
        scaled = self.graph.add("Mul", wide, self.graph.constant(scale, np.float64))
        return self.graph.add("Add", scaled, self.graph.constant(center, np.float64))

    def _linked(self, task: Task, raw: str) -> str:
        """[batch, outputs] before the link → what users see."""
        if task.named:
            return self.graph.add("Softmax", raw, axis=1)
        first = self.graph.add("Gather", raw, self._number(0), axis=1)
        match task.kind:
            case "binary":
                return self.graph.add("Sigmoid", first)
            case "counts":
                return self.graph.add("Exp", first)
        return first

    def _linear(self, pool: Pool, number: int, fitted: Linears) -> str:
        weight, intercept = fitted.weights[pool.name], fitted.intercepts[pool.name]
        width = weight.shape[1] - (len(pool.tasks) if len(pool.tasks) > 1 else 0)
        if len(pool.tasks) > 1:
            intercept = intercept + weight[:, width + number]
        self._check_finite(weight)
        table = self.graph.add("Cast", self._table(), to=_DOUBLE)
        product = self.graph.add(
            "MatMul", table, self.graph.constant(weight[:, :width].T.copy(), np.float64)
        )
        low = np.maximum(np.asarray(intercept, np.float64), -1e30)  # exp(-1e30) is 0 too
        return self.graph.add("Add", product, self.graph.constant(low, np.float64))

    @staticmethod
    def _check_finite(weight: Array) -> None:
        if not np.isfinite(weight).all():
            raise ExportError("the linear model holds weights that are not finite; train it again")

    def _trees(self, pool: Pool, task: Task, fitted: Any) -> str:
        """[batch, outputs], or [tasks, batch, outputs] for a pool of several."""
        if pool.name in self.made:
            return self.made[pool.name]
        table = self._table()
        if len(pool.tasks) > 1:
            table = self._repeated(table, len(pool.tasks))
        ensemble = _ensemble(fitted, pool, task)
        found = self.graph.add(
            "TreeEnsembleRegressor", table, domain="ai.onnx.ml", **ensemble.attributes()
        )
        if len(pool.tasks) > 1:
            shape = self._size(len(pool.tasks), -1, ensemble.outputs)
            found = self.graph.add("Reshape", found, shape)
        self.made[pool.name] = found
        return found

    def _repeated(self, table: str, tasks: int) -> str:
        """The table once for each task, with the task's number as the last column."""
        graph = self.graph
        each = graph.add("Concat", self._size(tasks), self.rows, self._size(1), axis=0)
        numbers = graph.constant(np.arange(tasks).reshape(-1, 1, 1), np.float32)
        column = graph.add("Reshape", graph.add("Expand", numbers, each), self._size(-1, 1))
        tall = graph.add("Tile", table, self._size(tasks, 1))
        return graph.add("Concat", tall, column, axis=1)

    def _table(self) -> str:
        """The inputs as one table [batch, F], float32; see :class:`View`."""
        if "table" not in self.made:
            view = self.model.view
            columns = [self._columns(each) for each in view.inputs]
            self.made["table"] = self.graph.add("Concat", *columns, axis=1)
        return self.made["table"]

    def _columns(self, each: Input) -> str:
        view = self.model.view
        if each.worded:
            raise ExportError(
                "this baseline counts the tokens of a text, which is not exported; "
                "serve it with plait.load(folder).predict"
            )
        if each.key not in self.encoded:
            width = len(each.sizes) if view.codes else sum(each.sizes)
            width = width if each.type == "categorical" else int(np.prod(each.shape))
            shape = self.graph.add("Concat", self.rows, self._size(width), axis=0)
            return self.graph.add("Expand", self.graph.constant([[0.0]], np.float32), shape)
        value = self.encoded[each.key]
        if each.type != "categorical":
            shape = self._size(0, int(np.prod(each.shape)))
            return self.graph.add("Reshape", value, shape) if each.type == "image" else value
        if view.codes:
            return self.graph.add("Cast", value, to=_FLOAT)
        return self._one_hot(value, each.sizes)

    def _one_hot(self, codes: str, sizes: Sequence[int]) -> str:
        graph, found = self.graph, []
        ends = graph.constant([0.0, 1.0], np.float32)
        for place, size in enumerate(sizes):
            column = graph.add("Gather", codes, self._number(place), axis=1)
            found.append(graph.add("OneHot", column, self._number(size), ends, axis=1))
        return graph.add("Concat", *found, axis=1) if len(found) > 1 else found[0]


_FLOAT, _DOUBLE = 1, 11  # TensorProto's numbers of the types


def _ensemble(fitted: Any, pool: Pool, task: Task) -> Ensemble:
    if isinstance(fitted, Forests):
        trees: Trees = fitted.forests[pool.name]
        return of_forest(trees)
    if isinstance(fitted, Boosters):
        booster = fitted.boosters[pool.name]
        text = booster.model_to_string()
        known = re.search(
            r"^objective=(binary sigmoid:1|multiclass .*|poisson|regression)$", text, re.MULTILINE
        )
        if not known:
            raise ExportError("only boosters that plait trained itself can be exported")
        return of_booster(booster.dump_model(), len(task.classes) if _several(task) else 1)
    raise ExportError(f"models of kind {fitted.kind!r} cannot be exported")


def _several(task: Task) -> bool:
    return task.named
