"""MLflow: a database in a folder, shown by ``mlflow ui --backend-store-uri sqlite:///…``."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from plait.training.trackers.base import Row, Tracker

BATCH = 1000  # numbers that MLflow takes at once
LAST = "plait.step"  # the tag that holds the last step sent
_REFUSED = re.compile(r"[^\w\-. :/]", re.ASCII)


class MLflow(Tracker):
    """Writes a run to the database ``mlflow.db`` in ``folder``, under an ``experiment``.

    MLflow takes few signs in names: others become ``_``, and names that then are alike are
    numbered.
    """

    needs: ClassVar[tuple[str, ...]] = ("mlflow", "sqlalchemy", "alembic")

    def __init__(
        self,
        folder: str | Path,
        *,
        name: str = "training",
        experiment: str = "plait",
        every: int | None = None,
    ) -> None:
        super().__init__(name, every)
        self.folder = Path(folder)
        self.experiment = experiment
        self._client: Any = None
        self._run = ""
        self._plain: dict[str, str] = {}

    def open(self, step: int) -> int:
        """Make the database, the experiment and the run where they are missing."""
        # Read when MLflow is imported: it would tell its makers of every use.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        database = self.folder.resolve() / "mlflow.db"
        self._client = MlflowClient(tracking_uri=f"sqlite:///{database.as_posix()}")
        known = self._client.get_experiment_by_name(self.experiment)
        if known is None:
            artifacts = (self.folder.resolve() / "artifacts").as_uri()
            there = self._client.create_experiment(self.experiment, artifact_location=artifacts)
        else:
            there = known.experiment_id
        self._plain = {}
        latest = self._latest(there) if step else None
        if latest is None:
            self._run = self._client.create_run(there, run_name=self.name).info.run_id
            return 0
        self._run = latest.info.run_id
        return int(latest.data.tags.get(LAST, 0))

    def _latest(self, experiment: str) -> Any:
        order = ["attributes.start_time DESC"]
        runs = self._client.search_runs([experiment], order_by=order)
        return next((run for run in runs if run.info.run_name == self.name), None)

    def send(self, rows: Sequence[Row]) -> None:
        """Log the numbers as metrics, and how far they go."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(self._name(name), value, now, step)
            for step, numbers in rows
            for name, value in numbers.items()
        ]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(self._run, metrics=metrics[start : start + BATCH])
        self._client.set_tag(self._run, LAST, str(rows[-1][0]))

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run)
        self._client = None

    def _name(self, name: str) -> str:
        if name not in self._plain:
            plain, number = _REFUSED.sub("_", name), 1
            while plain in self._plain.values():
                number += 1
                plain = f"{_REFUSED.sub('_', name)} {number}"
            self._plain[name] = plain
        return self._plain[name]
