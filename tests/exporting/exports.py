"""Small tables and studies for the tests of exporting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import plait
from plait.comparing import Progress, Study
from plait.testing.toys import toy_frame

TARGETS = ["ripe", "grade", "stars", "price", "sold"]
KINDS = dict(zip(TARGETS, ["binary", "classes", "ordinal", "real", "counts"], strict=True))
ENCODER = {"trunk": {"mlp": {"width": 8, "depth": 1}}}


def table(rows: int = 160, seed: int = 0) -> pl.DataFrame:
    """Numbers with gaps, a category, no text; a task for every kind."""
    frame = toy_frame(rows, seed=seed).drop("id", "note")
    gaps = np.random.default_rng(seed).random(rows) < 0.2
    return frame.with_columns(pl.when(pl.Series(gaps)).then(None).otherwise("x1").alias("x1"))


def fresh_rows() -> pl.DataFrame:
    """Rows that training did not see, with an unknown and a missing category."""
    frame = table(40, seed=7).drop(TARGETS)
    colours = ["mauve", None, *frame["colour"][2:].to_list()]
    return frame.with_columns(pl.Series("colour", colours))


def compared(frame: Any, folder: Path, targets: Any, **given: Any) -> Study:
    settings: dict[str, Any] = {
        "encoder": ENCODER,
        "training": {"passes": 2, "learning_rate": 0.01},
    }
    study = plait.compare(
        frame, targets=targets, out=folder, seeds=1, progress=Progress(), **{**settings, **given}
    )
    assert study.failures() == []
    return study


def columns_of(found: pl.DataFrame, task: str) -> np.ndarray:
    """A task's predictions in a frame of plait: [n] or [n, classes]."""
    wide = [name for name in found.columns if name.startswith(f"{task}.")]
    return found.select(wide).to_numpy() if wide else found[task].to_numpy()
