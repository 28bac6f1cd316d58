"""What `plait validate` costs on a CSV of one gigabyte: seconds and peak memory.

Writes a recommender log (an id, a condition, three targets, 23 inputs) block by block into a
temporary folder, runs the command in a process of its own and removes everything. The aims are
below 15 s and 500 MB; CPU seconds are printed beside wall-clock seconds, since other work on the
machine lengthens only the latter.

    python benchmarks/validate_1gb.py [--size 1.0]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

ROWS = 50_000  # written at a time
STUDY = """\
data: {table: log.csv, id: event, types: {time: numeric}}
tasks:
  click: binary
  like: {kind: binary, where: click == 1, missing: [-1]}
  seconds: {kind: real, where: click == 1}
"""


def block(random: np.random.Generator, start: int) -> pl.DataFrame:
    user, item = random.integers(0, 200_000, ROWS), random.integers(0, 50_000, ROWS)
    click = (random.random(ROWS) < 0.1).astype(int)
    like = np.where(click == 1, (random.random(ROWS) < 0.3).astype(int), -1)
    seconds = np.where(click == 1, random.exponential(60, ROWS).round(2), np.nan)
    return pl.DataFrame(
        {
            "event": [f"e{start + row:08d}" for row in range(ROWS)],
            "user": user,
            "item": item,
            "time": np.arange(start, start + ROWS) + 1_700_000_000,
            "country": random.choice(["de", "fr", "it", "es", "pl", "se"], ROWS),
            "device": random.choice(["phone", "desk", "tv"], ROWS),
            "genre": random.choice([f"genre {number}" for number in range(40)], ROWS),
            "title": [f"film number {number} of the long series {number % 7}" for number in item],
            **{f"x{number}": random.normal(size=ROWS).round(6) for number in range(14)},
            "click": click,
            "like": like,
            "seconds": pl.Series(seconds).fill_nan(None),
        }
    )


def write(path: Path, size: float) -> int:
    random, rows, written = np.random.default_rng(0), 0, 0
    with path.open("wb") as file:
        while written < size * 1e9:
            text = block(random, rows).write_csv(include_header=rows == 0).encode()
            file.write(text)
            rows, written = rows + ROWS, written + len(text)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=1.0, help="gigabytes")
    size = parser.parse_args().size
    with tempfile.TemporaryDirectory() as folder:
        table, study = Path(folder) / "log.csv", Path(folder) / "study.yaml"
        rows = write(table, size)
        study.write_text(STUDY)
        print(f"{table.stat().st_size / 1e9:.2f} GB, {rows:,} rows", flush=True)
        started = time.perf_counter()
        command = [sys.executable, "-m", "plait.cli.main", "validate", str(study)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wall = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(done.stdout or done.stderr)
    print(f"wall {wall:.1f} s, CPU {used.ru_utime + used.ru_stime:.1f} s, "
          f"peak {used.ru_maxrss / 1024:.0f} MB")  # fmt: skip
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
