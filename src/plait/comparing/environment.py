"""Where a study was run: versions, threads, device and hashes, kept as ``plait.lock.json``."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from plait.comparing.study import Study

PACKAGES = (
    "plait", "torch", "numpy", "scipy", "scikit-learn", "polars", "safetensors",
    "lightgbm", "transformers", "tokenizers",
)  # fmt: skip


def lock(study: Study) -> dict[str, Any]:
    """Everything that a second run of the study would need to be the same."""
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),  # sums differ between thread counts
        "device": device(),
        "seeds": dict(study.seeds),
        "data": [plan.fingerprint for plan in study.plans],
        "cells": {
            f"{place.label} init {place.init} split {place.split}": cell.key
            for place, cell in study.cells().items()
        },
    }


def versions() -> dict[str, str]:
    """The versions of what plait stands on, as far as it is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def device() -> str:
    """The accelerator's name, or the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return "Apple GPU (mps)"
    return platform.processor() or platform.machine()
