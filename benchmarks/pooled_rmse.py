"""RMSE over all test rows of a run together, for each strategy: a mean over seeds with its spread.

The leaderboard averages over tasks; published figures for the School data pool the rows.

    python benchmarks/pooled_rmse.py RUN
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import polars as pl


def pooled(run: Path) -> dict[str, list[float]]:
    """Strategy, as its recipe → one RMSE for each seed."""
    found = defaultdict(list)
    for cell in sorted((run / "cells").iterdir()):
        if not (cell / "predictions.parquet").exists():
            continue
        facts = json.loads((cell / "cell.json").read_text("utf-8"))
        test = pl.read_parquet(cell / "predictions.parquet").filter(pl.col("split") == "test")
        squares = (test["truth"] - test["prediction"]) ** 2
        name = facts["strategy"]
        label = name if isinstance(name, str) else json.dumps(name)
        found[label].append(math.sqrt(float(squares.mean())))
    return found


if __name__ == "__main__":
    table = pooled(Path(sys.argv[1]))
    for label, values in sorted(table.items(), key=lambda item: statistics.mean(item[1])):
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{statistics.mean(values):7.3f} ± {spread:.3f}  ({len(values)} seeds)  {label}")
