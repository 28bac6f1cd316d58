from __future__ import annotations

from pathlib import Path

import pytest
from studies import ENCODER, TARGETS, table

import plait
from plait.comparing import Progress, Study


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with every way to one model; tests only read it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    plait.compare(
        table(),
        targets=TARGETS,
        strategies={
            "joint": "joint",
            "experts": {"joint": {"sharing": {"mmoe": {"experts": 2}}, "balancing": "uncertainty"}},
            "merged": {"merge": "task_arithmetic"},
            "adapted": {"adapt": {"lora": {"rank": 2}}},
        },
        encoder=ENCODER,
        training={"passes": 2, "learning_rate": 0.01},
        seeds=2,
        out=folder,
        title="A small study",
        progress=Progress(),
    )
    return folder


@pytest.fixture
def study(run_folder: Path) -> Study:
    return Study.open(run_folder)
