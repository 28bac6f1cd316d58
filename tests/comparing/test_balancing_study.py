"""The script behind docs/balancing-study.md: which seeds count, what is said, what is rewritten."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from plait.comparing.contrasts import contrasts
from plait.comparing.study import Place

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "balancing_study.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("balancing_study", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(SCRIPT.parent))  # as Python does for a script that is run
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


def test_only_seeds_that_every_network_has_finished_or_failed_count(script):
    cells = {
        Place(label, seed, 0): SimpleNamespace(
            key=f"{label}{seed}", strategy=SimpleNamespace(baseline=label == "forest")
        )
        for label in ("equal", "pcgrad", "forest")
        for seed in range(3)
    }
    store = SimpleNamespace(
        finished={"equal0", "pcgrad0", "equal1", "equal2"}.__contains__,
        failure={"pcgrad2": "out of memory"}.get,
    )
    found = script.complete(SimpleNamespace(cells=lambda: cells, store=store))
    assert [(place.label, place.init) for place in found] == [
        ("equal", 0), ("equal", 2), ("pcgrad", 0),
    ]  # fmt: skip


def test_the_sentence_names_what_differs_beyond_noise_and_counts_the_rest(script):
    random = np.random.default_rng(0)
    base = 0.8 + 0.01 * random.normal(size=(8, 3))
    noise = 0.001 * random.normal(size=(3, 8, 3))
    blocks = {"equal": base, "up": base + 0.01 + noise[0], "down": base - 0.01 + noise[1]}
    blocks["same"] = base + noise[2]
    said = script.sentence(contrasts(blocks, "equal"))
    assert said == (
        "Better than equal weights beyond noise: `up`; worse: `down`; tied with them: 1 of 3."
    )
    assert script.idle(
        SimpleNamespace(blocks={**blocks, "idle": base.copy()}), [*blocks, "idle"]
    ) == ["idle"]


def test_what_stands_between_the_marks_alone_is_rewritten(script, tmp_path):
    page = tmp_path / "page.md"
    begin, end = (f"<!-- {word}: written by benchmarks/mine.py -->" for word in ("begin", "end"))
    page.write_text(f"above\n{begin}\nold\n{end}\nbelow\n", "utf-8")
    script.rewrite(page, "mine.py", ["new", ""])
    text = page.read_text("utf-8")
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert "new" in text
    assert "old" not in text
    script.rewrite(page, "mine.py", ["new", ""])
    assert page.read_text("utf-8") == text
    page.write_text("no marks", "utf-8")
    with pytest.raises(SystemExit, match=r"the marks of mine.py are missing"):
        script.rewrite(page, "mine.py", [])
