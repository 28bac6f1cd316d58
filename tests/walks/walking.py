"""What the walks share: the command line as a user types it, and tables as users have them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
import pytest

from plait.cli import main

TINY = """\
encoder: {trunk: {mlp: {width: 8, depth: 1}}}
training: {passes: 2}
seeds: {init: 1}
"""


class Plait(Protocol):
    """What a command prints; it must leave with ``code``, and print no traceback."""

    def __call__(self, words: str, *, code: int = 0) -> str: ...


def within(capsys: pytest.CaptureFixture[str], words: str, *, code: int = 0) -> str:
    """A command in this process."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as left:
            main.run(words.split())
    finally:
        signal.signal(signal.SIGTERM, before)
    found = capsys.readouterr()
    return _checked(found.out + found.err, left.value.code or 0, code)


def apart(words: str, *, code: int = 0) -> str:
    """A command in a process of its own, whose cost is printed."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "plait.cli.main", *words.split()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    with process.stdout as stream:
        said = stream.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    print(  # noqa: T201
        f"plait {words}: {time.perf_counter() - started:.0f} s, of processor time "
        f"{used.ru_utime + used.ru_stime:.0f} s, at most {used.ru_maxrss / 1024:.0f} MB"
    )
    return _checked(said, process.returncode, code)


def _checked(said: str, left: object, code: int) -> str:
    assert left == code, said
    assert "Traceback" not in said
    return said


def log(start: int, rows: int) -> pl.DataFrame:
    """A recommender's log: a click everywhere, what follows it only where there was one."""
    random = np.random.default_rng(start)
    x = random.normal(size=(rows, 4)).round(4)
    click = random.random(rows) < 1 / (1 + np.exp(1 - 2 * x[:, 0]))
    like = np.where(click, random.random(rows) < 1 / (1 + np.exp(-3 * x[:, 1])), -1)
    return pl.DataFrame(
        {
            "event": [f"e{start + row:09d}" for row in range(rows)],
            "user": random.integers(0, max(rows // 10, 2), rows),
            "device": random.choice(["phone", "desk", "tv"], rows),
            **{f"x{number}": x[:, number] for number in range(4)},
            "click": click.astype(int),
            "like": like,
            "seconds": pl.Series(np.where(click, np.exp(x[:, 2] + 3).round(1), np.nan)).fill_nan(
                None
            ),
        }
    )


def assays(columns: int, rows: int) -> pl.DataFrame:
    """Molecules measured in few of many assays each."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 6)).round(4)
    active = x @ random.normal(size=(6, columns)) + random.normal(size=(rows, columns)) > 0
    known = random.random((rows, columns)) < 0.15
    names = [f"assay_{number:03d}" for number in range(columns)]
    return pl.DataFrame(
        {
            "molecule": [f"m{row}" for row in range(rows)],
            **{f"d{number}": x[:, number] for number in range(6)},
            **{
                name: pl.Series(np.where(known[:, at], active[:, at], np.nan)).fill_nan(None)
                for at, name in enumerate(names)
            },
        }
    )


def texts(seed: int, rows: int) -> tuple[list[str], list[str]]:
    """Short texts and whether they are kind."""
    random = np.random.default_rng(seed)
    kind = random.random(rows) < 0.5
    words = [["fine", "warm", "lively"] if good else ["dull", "cold", "slow"] for good in kind]
    said = [
        f"{random.choice(own)} and {random.choice(own)} number {seed} {row}"
        for row, own in enumerate(words)
    ]
    return said, ["good" if good else "bad" for good in kind]


def shop(rows: int, seed: int = 0) -> pl.DataFrame:
    """Three targets of three kinds that the inputs tell something of, some labels missing."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 3)).round(4)
    stars = np.clip(np.digitize(x[:, 1], [-1, -0.3, 0.3, 1]) + 1, 1, 5)
    price = (x @ [1.0, 2.0, 3.0] + 10).round(3)
    return pl.DataFrame(
        {
            "order": [f"o{row}" for row in range(rows)],
            "visits": x[:, 0],
            "age": x[:, 1],
            "basket": x[:, 2],
            "city": random.choice(["Rome", "Oslo", "Bonn"], rows),
            "bought": np.where(x[:, 0] + x[:, 2] > 0, "yes", "no"),
            "stars": stars,
            "price": pl.Series(np.where(random.random(rows) < 0.2, np.nan, price)).fill_nan(None),
        }
    )


def write(folder: Path, name: str, text: str) -> None:
    """A file of the user's."""
    (folder / name).write_text(text, "utf-8")
