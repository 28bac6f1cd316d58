"""The configuration beside an adapter as peft writes it: which files, and how LoRA is scaled."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plait.weights.files import DamagedError, read_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
PREFIX = "base_model.model."  # of every tensor's name


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of an adapter; :class:`DamagedError` for others, and for pickled weights.

    A LoRA has its ``lora_alpha``.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise DamagedError(f"no adapter in {folder}: {CONFIG} is missing")
    if not (folder / WEIGHTS).is_file() and (folder / PICKLED).exists():
        raise DamagedError(
            f"{folder / PICKLED} is a pickle, which can run any program when it is read; plait "
            "reads safetensors only: where you trust it, load it with peft and save it again"
        )
    config = read_json(path)
    if not isinstance(config, dict) or "peft_type" not in config:
        raise DamagedError(f"{path} is no configuration of peft's: it names no peft_type")
    if config["peft_type"] == "LORA" and not isinstance(config.get("lora_alpha"), int | float):
        raise DamagedError(f"{path}: lora_alpha is missing or no number")
    return config


def scale_of(config: Mapping[str, Any], path: str, rank: int) -> float:
    """The factor on the product of a LoRA at a path: α/r, with rsLoRA α/√r.

    Of ``alpha_pattern`` the first counts that the end of the path matches, as peft looks it up.
    """
    alpha = config["lora_alpha"]
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", path):
            alpha = value
            break
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
