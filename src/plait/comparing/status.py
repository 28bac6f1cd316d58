"""Where every cell of a run stands, read from its folder alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plait.comparing.leases import ENDED, OWNER, Lease, Owner
from plait.weights.files import temporary_beside

if TYPE_CHECKING:
    from plait.comparing.cells import Cell
    from plait.comparing.study import Study

DONE, RUNNING, FAILED, WAITING = STATES = ("done", "running", "failed", "waiting")


@dataclass(frozen=True, kw_only=True)
class CellState:
    """A cell: what it is computed for, and how far it is.

    ``owner`` computes it (``host process number``), for ``seconds``; its last sign of life is
    ``silent`` seconds old. ``error`` is why it failed, ``tries`` how often its process died or ran
    out of memory.
    """

    key: str
    label: str
    state: str
    owner: str = ""
    seconds: float | None = None
    silent: float | None = None
    error: str = ""
    tries: int = 0


def states(study: Study) -> list[CellState]:
    """Every cell of a study, in the order they are computed; trials included."""
    now = _now(study.folder)
    held = {lease.key: (lease, owner) for lease, owner in study.store.leases.running()}
    return [_state(study, cell, held.get(cell.key), now) for cell in study.planned()]


def _state(
    study: Study, cell: Cell, held: tuple[Lease, Owner] | None, now: float | None
) -> CellState:
    store, label = study.store, study.label_of(cell.key)
    if store.finished(cell.key):
        return CellState(key=cell.key, label=label, state=DONE)
    tries = len(store.leases.ways(cell.key))
    failure = store.failure(cell.key)
    if failure is not None:
        error = failure.error
        return CellState(key=cell.key, label=label, state=FAILED, error=error, tries=tries)
    if held is None:
        return CellState(key=cell.key, label=label, state=WAITING, tries=tries)
    lease, owner = held
    begun, sign = _times(lease)
    return CellState(
        key=cell.key,
        label=label,
        state=RUNNING,
        owner=f"{owner.host} process {owner.process}",
        seconds=None if begun is None or sign is None else max(0.0, sign - begun),
        silent=None if now is None or sign is None else max(0.0, now - sign),
        tries=tries,
    )


def _times(lease: Lease) -> tuple[float | None, float | None]:
    """When a lease was given and when its owner last gave a sign of life, by the storage's clock.

    The folder changes when it is made and when it ends, the owner's file with every sign.
    """
    try:
        if (lease.place / ENDED).exists():
            return None, None
        return lease.place.stat().st_mtime, (lease.place / OWNER).stat().st_mtime
    except OSError:
        return None, None


def _now(folder: Path) -> float | None:
    """The storage's own time; None where nothing can be written there."""
    probe = temporary_beside(folder / "probe")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return None
    finally:
        probe.unlink(missing_ok=True)
