"""One process of several that share a study: ``python -m plait.comparing.worker RUN``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time

from plait.comparing.cells import Shard
from plait.comparing.forecast import expected
from plait.comparing.progress import Progress
from plait.comparing.running import Bounds, work
from plait.comparing.space import EXIT_CODE, no_space
from plait.comparing.store import ESTIMATE
from plait.comparing.study import Study
from plait.training.interrupts import Terminated
from plait.weights.files import write_json

LOOK = 1.0  # seconds between two looks at whether the process that started this one is there


class Said(Progress):
    """Says to the error stream what a reader must know, and nothing else."""

    def say(self, words: str) -> None:
        """Write a line."""
        sys.stderr.write(f"{words}\n")


def main(arguments: list[str] | None = None) -> int:
    """Compute cells of a run until none is left."""
    parser = argparse.ArgumentParser(prog="plait.comparing.worker", description=__doc__)
    parser.add_argument("run", help="the folder of the run")
    parser.add_argument("--time", type=float, help="start no cell after so many seconds")
    parser.add_argument("--cell-time", type=float, help="seconds that a cell may take")
    parser.add_argument("--shard", type=Shard.read, help="the share of the cells, such as 3/50")
    parser.add_argument("--estimate", action="store_true", help="first tell how long it may take")
    given = parser.parse_args(arguments)
    bounds = Bounds.of(given.time, cell=given.cell_time, shard=given.shard, alone=True)
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    with Terminated():
        try:
            study = Study.open(given.run)
            if given.estimate:
                write_json(study.folder / ESTIMATE, expected(study, given.shard))
            work(study, bounds, Said())
        except OSError as error:
            if no_space(error):
                return EXIT_CODE
            sys.stderr.write(f"error: {error}\n")
            return 1
        except ValueError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
    return 0


def _leave_with(parent: int) -> None:
    """End this process, as a signal would, when the one that started it is gone."""
    while os.getppid() == parent:
        time.sleep(LOOK)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
