"""All campaigns, or those named, with their counts: ``python tests/campaigns/run_campaigns.py``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ending
import filling
import fuzzing
import killing
import losing
import racing

import merging

# Each with its own measure: how many blows, (filling) every how many writes one is failed, or
# (fuzzing) how many heads are damaged.
FULL: dict[str, tuple[Callable[..., dict[str, Any]], int]] = {
    "killing": (killing.campaign, 1000),
    "ending": (ending.campaign, 100),
    "losing": (losing.campaign, 50),
    "filling": (filling.campaign, 1),
    "racing": (racing.campaign, 300),
    "merging": (merging.campaign, 500),
    "fuzzing": (fuzzing.campaign, 1_000_000),
}
# A killed process loses nothing that it wrote, on a disk or in memory; there flushing is free.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
WRONG = (
    "lost", "torn", "twice", "strays", "other tables", "other exit codes", "steps lost",
    "failed cells", "unreadable", "two results", "no result", "not whole",
    "other bits", "crashes", "slow",
)  # fmt: skip


def main() -> int:
    """Run them, print one line of JSON each; the exit code is 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*FULL, []], help="default: all")
    parser.add_argument("--count", type=int, help="instead of the full count")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    bad = False
    for name in given.names or FULL:
        campaign, count = FULL[name]
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="plait-campaign-", dir=MEMORY) as folder:
            found = campaign(given.count or count, Path(folder), given.seed)
        bad = bad or any(found.get(word, 0) for word in WRONG)
        seconds = round(time.monotonic() - start, 1)
        sys.stdout.write(json.dumps({"campaign": name, **found, "seconds": seconds}) + "\n")
        sys.stdout.flush()
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
