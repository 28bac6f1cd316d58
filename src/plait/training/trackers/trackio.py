"""trackio: a database in a folder, shown by ``TRACKIO_DIR=FOLDER trackio show``."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from plait.training.trackers.base import Row, Tracker


class Trackio(Tracker):
    """Writes a run to a ``project`` in ``folder``; nothing is started, and nothing is sent away.

    trackio has one folder for a whole process: another one is refused (``ValueError``).
    """

    needs: ClassVar[tuple[str, ...]] = ("trackio",)

    def __init__(
        self,
        folder: str | Path,
        *,
        name: str = "training",
        project: str = "plait",
        every: int | None = None,
    ) -> None:
        super().__init__(name, every)
        self.folder = Path(folder)
        self.project = project
        self._run = ""

    def open(self, step: int) -> int:
        """A run with an id of its own, or the latest of the name."""
        storage = self._storage()
        known = storage.get_latest_run_record_by_name(self.project, self.name) if step else None
        if known is None:
            self._run = secrets.token_hex(16)
            return 0
        self._run = known["id"]
        return int(storage.get_max_step_for_run(self.project, self.name, run_id=self._run) or 0)

    def send(self, rows: Sequence[Row]) -> None:
        """Write the numbers into trackio's database."""
        self._storage().bulk_log(
            self.project,
            self.name,
            [numbers for _, numbers in rows],
            steps=[step for step, _ in rows],
            run_id=self._run,
        )

    def close(self) -> None:
        """Every number is written already."""

    def _storage(self) -> Any:
        """The storage of trackio; its folder is settled when trackio is imported."""
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = self.folder.resolve()
        os.environ.setdefault("TRACKIO_DIR", str(folder))
        from trackio.sqlite_storage import SQLiteStorage
        from trackio.utils import TRACKIO_DIR

        there = Path(TRACKIO_DIR).resolve()
        if there != folder:
            raise ValueError(
                f"trackio keeps one folder for a whole process, here {there}; give that folder, "
                "or leave TRACKIO_DIR unset and trackio alone before"
            )
        return SQLiteStorage
