"""One process of several that share a study: ``python -m plait.comparing.worker RUN``."""

from __future__ import annotations

import argparse
import sys
import time

from plait.comparing.progress import Progress
from plait.comparing.running import terminating, work
from plait.comparing.study import Study


def main(arguments: list[str] | None = None) -> int:
    """Compute cells of a run until none is left."""
    parser = argparse.ArgumentParser(prog="plait.comparing.worker", description=__doc__)
    parser.add_argument("run", help="the folder of the run")
    parser.add_argument("--time", type=float, help="start no cell after so many seconds")
    given = parser.parse_args(arguments)
    deadline = None if given.time is None else time.monotonic() + given.time
    with terminating():
        work(Study.open(given.run), deadline, Progress())
    return 0


if __name__ == "__main__":
    sys.exit(main())
