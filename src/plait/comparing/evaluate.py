"""What a model predicts for labelled rows, and what it costs to ask it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch

from plait.batch import Labels, Records
from plait.comparing.judging import loss_of_predictions
from plait.comparing.model import Model, asked_of
from plait.comparing.statistics import TaskPredictions
from plait.kinds import KINDS
from plait.task import TaskSet
from plait.training.interrupts import poll
from plait.weights.files import replacing

if TYPE_CHECKING:
    from plait.data import Dataset
    from plait.data.dataset import Split

Array = np.ndarray[Any, Any]
ROWS = 4096
ASKED = 256  # rows of a table asked at once when latency is measured
ENOUGH = 0.5  # seconds; a slow model is not asked again after so long


def predict_split(model: Model, dataset: Dataset, split: Split) -> dict[str, TaskPredictions]:
    """The predictions for every labelled row of a split, by task; empty tasks are left out."""
    pieces: dict[str, list[tuple[Array, Array]]] = {}
    for rows in torch.split(dataset.rows(split), dataset.tasks.at_once(ROWS)):
        poll()
        batch = dataset.batch(rows)
        ids = batch.ids.numpy()
        found = model.predict(batch.parts, asked_of(batch))
        for group, labels in batch.labels.items():
            names = dataset.tasks.groups[group].tasks
            numbers = labels.task.numpy()
            values = _kept(dataset.tasks, group, labels, found[group].numpy())
            for position in np.unique(numbers):
                mine = numbers == position
                own = (ids[labels.rows.numpy()[mine]], values[mine])
                pieces.setdefault(names[position], []).append(own)
    predicted = {}
    for name in dataset.tasks.names:
        if name in pieces:
            rows_, values = (np.concatenate(each) for each in zip(*pieces[name], strict=True))
            order = np.argsort(rows_, kind="stable")
            truth_rows, truth, weight = dataset.truth(name, split)
            if truth.ndim > 1:
                truth = np.zeros(len(truth))  # the tallies have taken it in
            assert np.array_equal(truth_rows, rows_[order])
            predicted[name] = TaskPredictions(
                rows=truth_rows,
                units=dataset.units[truth_rows],
                truth=truth,
                prediction=values[order],
                weight=weight,
                group=dataset.whose(name, split),
            )
    return predicted


def _kept(tasks: TaskSet, group: str, labels: Labels, values: Array) -> Array:
    """What is kept of predictions: they themselves, or tallies [n, K] where positions are many."""
    tally = KINDS[tasks.groups[group].kind].tally
    if tally is None:
        return values
    assert labels.valid is not None
    target, valid = labels.target.numpy(), labels.valid.numpy()
    values = values[(slice(None), *(slice(size) for size in valid.shape[1:]))]
    names, numbers = tasks.groups[group].tasks, labels.task.numpy()
    pieces = []  # records are sorted by task
    for position in np.unique(numbers):
        mine = numbers == position
        classes = tasks[names[position]].classes
        pieces.append(tally(target[mine], valid[mine], values[mine], classes))
    return np.concatenate(pieces)


def mean_loss(tasks: TaskSet, predicted: Mapping[str, TaskPredictions]) -> float:
    """The mean over tasks of their mean losses, real targets standardised; lower is better.

    Infinite where there is nothing to judge.
    """
    losses = []
    for name, one in predicted.items():
        task, truth, found = tasks[name], one.truth, one.prediction
        if task.kind == "real":
            truth, found = truth / task.scale, found / task.scale
        losses.append(loss_of_predictions(task.kind, truth, found, one.weight))
    return float(np.mean(losses)) if losses else float("inf")


def write_predictions(
    path: Path, dataset: Dataset, found: Mapping[str, dict[str, TaskPredictions]]
) -> None:
    """Write predictions by split and task as one Parquet file.

    Columns: split, task, id, row, unit, group (null where none is declared), truth, weight,
    prediction (the probability, the value, or the number of the likeliest class) and probabilities
    (of each class, else null). Of tasks that label positions inside a row there stands the row's
    tally in place of probabilities.
    """
    frames = []
    for split, tasks in found.items():
        for name, one in tasks.items():
            classes = one.prediction.ndim == 2
            best = one.prediction.argmax(1) if classes else one.prediction
            count = len(one.rows)
            columns = {
                "split": pl.repeat(split, count, dtype=pl.String, eager=True),
                "task": pl.repeat(name, count, dtype=pl.String, eager=True),
                "id": pl.Series(dataset.ids[one.rows].tolist(), dtype=pl.String),
                "row": pl.Series(one.rows, dtype=pl.Int64),
                "unit": pl.Series(one.units, dtype=pl.Int64),
                "group": pl.Series(
                    [None] * count if one.group is None else one.group, dtype=pl.Int64
                ),
                "truth": pl.Series(one.truth.astype(np.float64)),
                "weight": pl.Series(_weights(one)),
                "prediction": pl.Series(best.astype(np.float64)),
                "probabilities": _lists(one.prediction if classes else None, count),
            }
            frames.append(pl.DataFrame(columns))
    with replacing(path) as temporary:
        pl.concat(frames).write_parquet(temporary, compression="zstd")


def read_predictions(path: Path, tasks: TaskSet, split: str) -> dict[str, TaskPredictions]:
    """Read the predictions of one split back, by task."""
    frame = pl.scan_parquet(path).filter(pl.col("split") == split).collect()
    found = {}
    for (name,), rows in frame.group_by("task", maintain_order=True):
        task = tasks[str(name)]
        if task.named or KINDS[task.kind].tally is not None:
            flat = rows["probabilities"].explode().to_numpy()
            prediction = flat.reshape(len(rows), -1)
        else:
            prediction = rows["prediction"].to_numpy()
        weight = rows["weight"].to_numpy()
        found[task.name] = TaskPredictions(
            rows=rows["row"].to_numpy(),
            units=rows["unit"].to_numpy(),
            truth=rows["truth"].to_numpy(),
            prediction=prediction,
            weight=None if (weight == 1).all() else weight,
            group=None if rows["group"].null_count() else rows["group"].to_numpy(),
        )
    return found


def _weights(one: TaskPredictions) -> Array:
    return np.ones(len(one.rows)) if one.weight is None else one.weight.astype(np.float64)


def _lists(shares: Array | None, count: int) -> pl.Series:
    if shares is None:
        return pl.Series([None] * count, dtype=pl.List(pl.Float64))
    fixed = pl.Series(shares.astype(np.float64), dtype=pl.Array(pl.Float64, shares.shape[1]))
    return fixed.cast(pl.List(pl.Float64))


def latency(model: Model, dataset: Dataset, repeats: int = 5) -> float | None:
    """Seconds per row for the predictions of all tasks that can be asked of it.

    The median of a few repeats, over rows of every table; a task named by a column's value is asked
    of the rows with that value only. None where there is no labelled row.
    """
    tables = dataset.table.numpy()
    labelled = dataset.rows("test") if len(dataset.rows("test")) else dataset.rows("train")
    seconds, total = 0.0, 0
    for table in np.unique(tables[labelled.numpy()]):
        rows = labelled[torch.from_numpy(tables[labelled.numpy()] == table)][:ASKED]
        batch = dataset.batch(rows)
        asked = _all_tasks(dataset, dataset.tables[table], asked_of(batch), len(batch))
        times: list[float] = []
        while len(times) < repeats and sum(times) < ENOUGH:
            start = time.perf_counter()
            model.predict(batch.parts, asked)
            times.append(time.perf_counter() - start)
        seconds += float(np.median(times))
        total += len(batch)
    return seconds / total if total else None


def _all_tasks(
    dataset: Dataset, table: str, own: Mapping[str, Records], rows: int
) -> dict[str, Records]:
    whole, named = set[str](), set[str]()
    for route in dataset.preparation.routes.values():
        if route.table == table:
            (whole if route.by is None else named).update(route.tasks.values())
    asked = {}
    for key, group in dataset.tasks.groups.items():
        everywhere = [i for i, name in enumerate(group.tasks) if name in whole]
        task = torch.tensor(everywhere, dtype=torch.long).repeat_interleave(rows)
        row = torch.arange(rows).repeat(len(everywhere))
        if key in own:
            by = torch.tensor([name in named for name in group.tasks])[own[key].task]
            task = torch.cat([task, own[key].task[by]])
            row = torch.cat([row, own[key].rows[by]])
        if len(task):
            order = torch.argsort(task, stable=True)
            asked[key] = Records(task[order], row[order])
    return asked


@dataclass
class Meter:
    """What was measured: wall seconds, processor seconds of all threads, peak memory in bytes.

    ``memory`` None: not known here.
    """

    seconds: float = 0.0
    processor: float = 0.0
    memory: float | None = None


@contextmanager
def measured(every: float = 0.02) -> Iterator[Meter]:
    """Measure what runs inside: on a GPU the memory it allocates there, else the process's own."""
    meter, done = Meter(), threading.Event()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()

    def watch() -> None:
        while True:
            now = _resident()
            if now is not None:
                meter.memory = max(meter.memory or 0.0, now)
            if done.wait(every):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    start, used = time.perf_counter(), time.process_time()
    watcher.start()
    try:
        yield meter
    finally:
        meter.seconds = time.perf_counter() - start
        meter.processor = time.process_time() - used
        done.set()
        watcher.join()
        if cuda and torch.cuda.max_memory_allocated() > 0:
            meter.memory = float(torch.cuda.max_memory_allocated())


def _resident() -> float | None:
    """The memory this process holds now, in bytes."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return None
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
