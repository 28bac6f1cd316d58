"""Fitted estimators as folders: safetensors and JSON, no pickle; ``plait.load`` reads them too."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import plait
from plait.data import Preparation
from plait.method import Method, spell
from plait.networks import Network
from plait.tabular.fitting import settled
from plait.weights.files import (
    DamagedError,
    discard,
    publish,
    read_json,
    temporary_beside,
    verify,
    write_json,
)

FORMAT = 1
FILE = "estimator.json"


def save(
    folder: Path, network: Network, preparation: Preparation, about: Mapping[str, Any]
) -> None:
    """Write what was fitted into a folder, sealed with the hashes of its files.

    ``about`` is the estimator as plain data. Raises ``ValueError`` where the folder holds something
    else.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / FILE).exists():
        raise ValueError(f"{folder} is not empty and holds no estimator; give another folder")
    fresh = temporary_beside(folder)
    fresh.mkdir(parents=True)
    try:
        single = copy.deepcopy(network).float()  # as it was trained, and half as large
        single.save_pretrained(fresh / "network")
        write_json(fresh / "preparation.json", preparation.to_json())
        write_json(fresh / FILE, {"format": FORMAT, **about})
        # Two files make the folder a model like those of a study.
        tasks = [task.to_json() for task in network.tasks]
        model = {"format": 1, "sort": "network", "tasks": tasks, "evidence": {}}
        write_json(fresh / "model.json", model)
        words = f"one network for all tasks, by {about['class']}"
        write_json(fresh / "about.json", {"plait": plait.__version__, "words": words})
        publish(fresh)
        discard(folder)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def load(folder: Path) -> tuple[Network, Preparation, dict[str, Any]]:
    """Read :func:`save` back; :class:`DamagedError` says what is wrong with the folder."""
    if not (folder / FILE).is_file():
        raise DamagedError(f"{folder} holds no estimator: there is no {FILE}")
    verify(folder)
    about = read_json(folder / FILE)
    if about.get("format") != FORMAT:
        raise DamagedError(f"{folder / FILE}: made by another version of plait")
    network = settled(Network.from_pretrained(folder / "network"))
    preparation = Preparation.from_json(read_json(folder / "preparation.json"))
    return network, preparation, about


def plain(value: Any) -> Any:
    """A setting as plain data, None where it has no such form (a random state)."""
    if isinstance(value, Method):
        return spell(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a number of numpy's
        return value.item()
    return value if isinstance(value, (str, int, float, bool)) else None
