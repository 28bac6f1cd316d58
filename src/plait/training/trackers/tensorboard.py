"""TensorBoard: event files in a folder, shown by ``tensorboard --logdir FOLDER``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from plait.training.trackers.base import Row, Tracker


class TensorBoard(Tracker):
    """Writes a run to ``folder``, or with a ``name`` to a folder of that name inside it."""

    needs: ClassVar[tuple[str, ...]] = ("tensorboard",)

    def __init__(self, folder: str | Path, *, name: str = "", every: int | None = None) -> None:
        super().__init__(name, every)
        self.folder = Path(folder)
        self._writer: Any = None

    def open(self, step: int) -> int:
        """A writer; what an earlier one wrote of later steps is no longer shown."""
        from torch.utils.tensorboard import SummaryWriter

        where = self.folder / _plain(self.name) if self.name else self.folder
        self._writer = SummaryWriter(str(where), purge_step=step + 1 if step else None)
        return step

    def send(self, rows: Sequence[Row]) -> None:
        """Add the numbers as scalars."""
        for step, numbers in rows:
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        self._writer.close()
        self._writer = None


def _plain(name: str) -> str:
    """A name as one folder: what could lead elsewhere is replaced."""
    kept = "".join(c if c.isalnum() or c in " -_.=" else "_" for c in name)
    return kept.strip(".") or "_"
