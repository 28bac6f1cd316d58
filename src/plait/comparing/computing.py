"""Computing one cell that this process holds: tries, limits, and what a failure becomes."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plait.comparing.cells import Cell
from plait.comparing.evaluate import (
    Meter,
    latency,
    mean_loss,
    measured,
    predict_split,
    write_predictions,
)
from plait.comparing.leases import Lease, LeaseLostError
from plait.comparing.memory import out_of_memory
from plait.comparing.model import Model, load_model
from plait.comparing.predictor import write_files
from plait.comparing.space import full, need, no_space
from plait.comparing.store import WORK, Store
from plait.comparing.words import duration
from plait.training.interrupts import stoppable
from plait.weights.files import read_json, write_atomic, write_json

TRIES = 3  # a cell whose process died so often has failed
HALVINGS = 1  # how often a cell that ran out of memory is tried with half the micro-batch
GRACE = 60.0  # seconds that a cell over its time has to reach the end of a step
OVERDUE = 124  # the exit code of a worker that a cell did not let go
BYTES = 4  # of a parameter


class OverTimeError(RuntimeError):
    """A cell took longer than it may."""


class HopelessError(RuntimeError):
    """A cell was tried as often as it may be."""


def attempt(
    store: Store,
    cell: Cell,
    lease: Lease,
    about: Mapping[str, Any],
    *,
    limit: float | None = None,
    alone: bool = False,
) -> str:
    """Compute a leased cell; a sentence where that did not succeed, else nothing.

    A failure is recorded, whatever it is; only a full disk is raised (as ``NoSpaceError``), since
    no cell is at fault there. ``limit`` is in seconds. ``alone`` says that the process may be ended
    where a cell does not stop in time.
    """
    how = "interrupted"
    try:
        with _watched(store, lease, limit, alone=alone):
            compute(store, cell, lease, about)
        return ""
    except LeaseLostError:
        return "was taken over by another process"
    except HopelessError as error:
        how = "failed"
        store.fail(cell.key, str(error))
        return f"failed: {error}"
    except Exception as error:
        if not lease.held():  # its files were taken away under it
            return "was taken over by another process"
        if no_space(error):
            raise full(store.folder) from error
        if out_of_memory(error):
            how = "memory"
            return "ran out of memory"
        how = "failed"
        store.fail(cell.key, str(error) if isinstance(error, OverTimeError) else error)
        return f"failed: {_short(error)}"
    finally:
        lease.end(how)


def compute(store: Store, cell: Cell, lease: Lease, about: Mapping[str, Any]) -> None:
    """Compute a leased cell and seal it; ``about`` goes with the model."""
    ways = store.leases.ways(cell.key)
    refuse_hopeless(cell, ways)
    plan, facts = cell.plan, retried(cell, ways)
    if facts.get("micro_batches"):
        plan = plan.trained_with(micro_batches=facts["micro_batches"])
    told = {"retried": facts} if facts else {}
    with store.computing(cell, lease, **told) as folder:
        if folder is None:  # all but the publishing had been done
            return
        parts = {
            name: load_model(store.path(part.key) / "model") for name, part in cell.parts.items()
        }
        spent = folder / "spent.json"  # seconds of attempts that were cut off
        before = read_json(spent) if spent.exists() else {"seconds": 0.0, "processor": 0.0}
        try:
            with measured() as meter:
                model = cell.strategy.run(plan, parts, cell.seed, folder / WORK)
        except BaseException:
            if lease.held():
                write_json(spent, _spent(before, meter))
            raise
        need(store.folder, BYTES * (model.cost().parameters or 0.0))
        cost = _evaluate(model, cell, folder)
        cost |= {**_spent(before, meter), "memory": meter.memory}
        about = {**about, **cell.describe(), **told}
        preparation = cell.plan.dataset.preparation
        write_files(folder / "model", model, preparation, about, store.folder / "frozen")
        write_atomic(folder / "events.jsonl", _events(folder / WORK))
        write_json(folder / "cost.json", cost)
        spent.unlink(missing_ok=True)


def _spent(before: Mapping[str, float], meter: Meter) -> dict[str, float]:
    """The seconds of this attempt and of those before it."""
    now = {"seconds": meter.seconds, "processor": meter.processor}
    return {name: before[name] + value for name, value in now.items()}


def refuse_hopeless(cell: Cell, ways: list[str]) -> None:
    """Raise where a cell was tried often enough; ``ways`` says how its leases ended so far."""
    if ways.count("memory") > HALVINGS:
        again = "twice" if cell.strategy.baseline else "with half the micro-batch too"
        raise HopelessError(f"out of memory, {again}")
    if ways.count("died") >= TRIES:
        raise HopelessError(f"its process died {TRIES} times")


def retried(cell: Cell, ways: list[str]) -> dict[str, Any]:
    """What is different after attempts that ended badly, as plain data; empty after none.

    Micro-batches are more and smaller after a lack of memory: their gradients add up to the same.
    """
    if not ways:
        return {}
    memory = ways.count("memory")
    found: dict[str, Any] = {"died": ways.count("died"), "memory": memory}
    if memory and not cell.strategy.baseline:
        found["micro_batches"] = cell.plan.training.micro_batches * 2**memory
    return found


def _evaluate(model: Model, cell: Cell, folder: Path) -> dict[str, float | None]:
    dataset = cell.plan.dataset
    data = model.reading(dataset, cell.plan.folder)
    found = {
        "valid": predict_split(model, data, "valid"),
        "test": predict_split(model, data, "test"),
    }
    write_predictions(folder / "predictions.parquet", dataset, found)
    loss = mean_loss(model.tasks, found["valid"])
    cost = model.cost()
    return {
        "parameters": cost.parameters,
        "active": cost.active,
        "latency": latency(model, dataset),
        "valid_loss": loss if loss - loss == 0 else None,
    }


def _events(folder: Path) -> bytes:
    """All that the trainings of a cell logged, whole lines only."""
    paths = sorted(folder.rglob("events.jsonl"))
    lines = [line for path in paths for line in path.read_bytes().splitlines(keepends=True)]
    return b"".join(line for line in lines if line.endswith(b"\n"))


@contextmanager
def _watched(store: Store, lease: Lease, limit: float | None, *, alone: bool) -> Iterator[None]:
    """Signs of life go out while the block runs, and its work stops with the lease or the time."""
    words = "" if limit is None else f"over the time limit of {duration(limit)} a cell"

    def overdue() -> None:
        store.fail(lease.key, words)
        lease.end("failed")
        os._exit(OVERDUE)

    with stoppable() as stop:
        timers = []
        if limit is not None:
            late = OverTimeError(words)
            timers.append(threading.Timer(limit, lambda: stop(late, save=True)))
            if alone:
                timers.append(threading.Timer(limit + GRACE, overdue))
        for timer in timers:
            timer.daemon = True
            timer.start()
        try:
            with lease.beating(lambda: stop(LeaseLostError(lease.key), save=False)):
                yield
        finally:
            for timer in timers:
                timer.cancel()


def _short(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
