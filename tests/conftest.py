"""What every test needs: one thread, no hub, and the folder of the real data sets."""

from __future__ import annotations

import os
from pathlib import Path

# Set before torch is imported: two test processes share two cores, and results stay comparable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets; the test is skipped where there is none."""
    folder = Path(os.environ.get("PLAIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "DATA.md").exists():
        pytest.skip(f"no data sets in {folder}; set PLAIT_DATA to their folder")
    return folder
