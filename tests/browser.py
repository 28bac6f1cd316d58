"""Pages as a browser makes them: Chromium without a window, its tree of elements as text."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--allow-file-access-from-files", "--hide-scrollbars",
)  # fmt: skip


def dump(page: Path, milliseconds: int = 3000, seconds: int = 120) -> str:
    """The page after its scripts ran, as HTML; the test is skipped where there is no Chromium."""
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--virtual-time-budget={milliseconds}", "--dump-dom",
         f"--user-data-dir={page.parent / 'profile'}", page.as_uri()],
        capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    assert done.stdout.strip(), done.stderr[-2000:]
    return done.stdout
