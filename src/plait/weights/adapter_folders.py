"""Folders of adapters as peft writes them, read and written as numpy arrays, no torch and no peft.

::

    FOLDER/adapter_config.json           peft_type, rank, scaling, where it stands
    FOLDER/adapter_model.safetensors     base_model.model.<path>.lora_A.weight [r, d_in], …

Modules saved beside the adapters (``modules_to_save``: heads of one or two layers) are kept as they
are. Pickled adapters are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plait.method import did_you_mean
from plait.weights.files import DamagedError, write_json
from plait.weights.peft_config import CONFIG, PREFIX, WEIGHTS, read_config, scale_of
from plait.weights.states import Array, read_header, read_state, write_state

BASE = "plait.base"  # in the metadata: SHA-256 of the frozen network it was trained on
KINDS = ("LORA", "IA3", "PROMPT_TUNING", "PREFIX_TUNING")
_OWN = re.compile(r"(?:(.*)\.)?(lora_[AB]\.weight|lora_magnitude_vector|ia3_l|prompt_embeddings)")
# Settings of peft's LoRA that change what the tensors mean and that plait does not have.
_FOREIGN = ("use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out", "layer_replication")


@dataclass(frozen=True)
class AdapterFile:
    """One task's adapters: the configuration, and tensors by module path and name.

    ``modules``: path in the base → tensors by their last name; prompts stand at the path ``""``.
    ``saved``: tensors of whole modules saved beside them. ``base``: the hash of the base, or "".
    """

    config: Mapping[str, Any]
    modules: Mapping[str, Mapping[str, Array]]
    saved: Mapping[str, Array] = field(default_factory=dict)
    base: str = ""

    @property
    def kind(self) -> str:
        """``LORA``, ``IA3``, ``PROMPT_TUNING`` or ``PREFIX_TUNING``."""
        return str(self.config["peft_type"])

    def scale(self, path: str) -> float:
        """The factor on the products of a LoRA at a path: α/r, with rsLoRA α/√r."""
        if self.kind != "LORA":
            return 1.0
        return scale_of(self.config, path, self.modules[path]["lora_A.weight"].shape[0])

    def write(self, folder: str | Path) -> None:
        """Write the folder, each file whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{PREFIX}{path}.{name}" if path else name: value
            for path, own in self.modules.items()
            for name, value in own.items()
        }
        tensors |= {f"{PREFIX}{name}": value for name, value in self.saved.items()}
        about = {"format": "pt", **({BASE: self.base} if self.base else {})}
        write_state(folder / WEIGHTS, tensors, about)
        write_json(folder / CONFIG, dict(self.config))


def read_adapter(folder: str | Path) -> AdapterFile:
    """Read a folder of peft's; :class:`DamagedError` says what is wrong with it."""
    folder = Path(folder)
    config = read_config(folder)
    _check(folder / CONFIG, config)
    header, tensors = read_header(folder / WEIGHTS), read_state(folder / WEIGHTS)
    modules: dict[str, dict[str, Array]] = {}
    saved: dict[str, Array] = {}
    for name, value in tensors.items():
        plain = name.removeprefix(PREFIX)
        if own := _OWN.fullmatch(plain):
            modules.setdefault(own[1] or "", {})[own[2]] = value
        else:
            saved[plain] = value
    _check_saved(folder / WEIGHTS, saved, config.get("modules_to_save") or ())
    if not modules:
        raise DamagedError(f"{folder / WEIGHTS} holds no tensor of a {config['peft_type']} adapter")
    return AdapterFile(config, modules, saved, header.metadata.get(BASE, ""))


def _check(path: Path, config: Mapping[str, Any]) -> None:
    kind = str(config["peft_type"])
    if kind not in KINDS:
        raise DamagedError(
            f"{path}: adapters of type {kind!r} are not read{did_you_mean(kind, KINDS)}"
        )
    if kind == "LORA":
        foreign = [name for name in _FOREIGN if config.get(name)]
        if foreign:
            raise DamagedError(f"{path}: LoRA with {foreign[0]} is not read")
        if config.get("bias", "none") != "none":
            raise DamagedError(f"{path}: LoRA that trains biases ({config['bias']}) is not read")


def _check_saved(path: Path, saved: Mapping[str, Array], named: Any) -> None:
    for name in saved:
        if not any(module in name.split(".") for module in named):
            raise DamagedError(f"{path}: {name!r} belongs to no adapter and to no module saved")
