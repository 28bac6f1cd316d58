"""One task's adapters as a folder of peft's, out of a network and into one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from plait.adapting.adapted import AdaptedTrunk
from plait.adapting.base import SiteBank, outermost
from plait.method import did_you_mean
from plait.networks.base import escape
from plait.networks.network import Network
from plait.networks.transformer import Transformer
from plait.weights.adapter_folders import AdapterFile, read_adapter
from plait.weights.states import Array


def adapted_trunk(network: Network) -> AdaptedTrunk:
    """The network's trunk; ``ValueError`` where it has no adapters."""
    if not isinstance(network.trunk, AdaptedTrunk):
        raise ValueError("this network has no adapters; make one with build_adapted")
    return network.trunk


def places(trunk: AdaptedTrunk) -> dict[str, SiteBank]:
    """The banks by their path in the base as peft would name it.

    Inside a transformer paths begin there, and the whole of it is ``""``; else they begin at the
    trunk.
    """
    stems = [path for path, m in trunk.base.named_modules() if isinstance(m, Transformer)]
    found, layers = {}, outermost(trunk.base)
    for path, layer in layers.items():
        stem = next((s for s in stems if f"{path}.".startswith(f"{s}.model.")), None)
        short = path if stem is None else path.removeprefix(f"{stem}.model").lstrip(".")
        found[short] = layer.bank
    if len(found) != len(layers):
        raise ValueError("several transformers have adapters at the same paths; a file has one")
    return found


def save_adapter(
    network: Network, task: str, folder: str | Path, *, base: str | None = None
) -> None:
    """Write one task's adapters for peft, with the hash of the frozen network.

    ``base`` is where peft finds that network, a folder or a hub name.
    Raises ``KeyError`` for an unknown task, ``ValueError`` for adapters that peft has no form for.
    """
    trunk = adapted_trunk(network)
    position = trunk.tasks.position[trunk.tasks[task].name]
    banks = places(trunk)
    modules = {
        path: {name: _array(value) for name, value in bank.exported(position).items()}
        for path, bank in banks.items()
    }
    config = trunk.adapter.peft_config(banks, position) | {
        "base_model_name_or_path": base, "task_type": "FEATURE_EXTRACTION", "inference_mode": True,
        "modules_to_save": None,
    }  # fmt: skip
    if "" not in modules:
        config["target_modules"] = sorted(modules)
    AdapterFile(config, modules, base=base_digest(trunk)).write(folder)


def load_adapter(
    network: Network, task: str, folder: str | Path, *, other_base: bool = False
) -> AdapterFile:
    """Put the adapters of a folder in a task's place, in the running network; no other moves.

    A head saved beside them that fits the task's is loaded too. Returns what was read. Raises
    ``ValueError``, before anything is changed, for another kind of adapter, or one that was made
    for another base: paths, shapes and hashes are shown. With ``other_base`` one is taken whose
    paths and shapes fit, whatever weights (or type of numbers) it was trained on.
    """
    trunk = adapted_trunk(network)
    position = trunk.tasks.position[trunk.tasks[task].name]
    read = read_adapter(folder)
    mine = places(trunk)
    theirs = _paired(mine, read, trunk)
    wanted = trunk.adapter.peft_config(mine, position)
    for setting in ("peft_type", "use_dora"):
        if (read.config.get(setting) or False) != (wanted.get(setting) or False):
            raise ValueError(
                f"{folder} has {setting} {read.config.get(setting)!r}, the network's "
                f"{trunk.adapter.card.name} {wanted.get(setting, False)!r}"
            )
    before = {path: _kept(bank) for path, bank in mine.items()}
    try:
        for path, other in theirs.items():
            tensors = {name: torch.from_numpy(v) for name, v in read.modules[other].items()}
            mine[path].take(position, tensors, read.scale(other))
    except ValueError as error:
        _restore(mine, before)
        raise ValueError(f"{folder} at {path!r}: {error}{_hashes(read, trunk)}") from error
    if read.base and not other_base and read.base != base_digest(trunk):
        _restore(mine, before)
        raise ValueError(
            f"{folder} fits in paths and shapes, and was trained on other weights; other_base=True "
            f"takes it all the same{_hashes(read, trunk)}"
        )
    _load_head(network, task, read)
    return read


def base_digest(trunk: AdaptedTrunk) -> str:
    """A hash of the frozen network's tensors, of their names and types."""
    digest = hashlib.sha256()
    for name, tensor in sorted(trunk.base.state_dict().items()):
        plain = ".".join(piece for piece in name.split(".") if piece != "base")
        digest.update(f"{plain} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _paired(mine: Mapping[str, SiteBank], read: AdapterFile, trunk: AdaptedTrunk) -> dict[str, str]:
    """The file's paths by ours; theirs may have the name of a model before them."""
    found, left = {}, list(read.modules)
    for path in mine:
        other = next((p for p in left if p == path or p.endswith(f".{path}")), None)
        if other is not None:
            found[path] = other
            left.remove(other)
    lacking = [path for path in mine if path not in found]
    if left or lacking:
        told = []
        if left:
            told.append(f"the file adapts {left[0]!r}{did_you_mean(left[0], mine)}")
        if lacking:
            told.append(f"the network adapts {lacking[0]!r}, the file does not")
        raise ValueError(
            "the file was made for another base or other sites: " + "; ".join(told)
            + _hashes(read, trunk)
        )  # fmt: skip
    return found


def _hashes(read: AdapterFile, trunk: AdaptedTrunk) -> str:
    if not read.base:
        return ""
    own = base_digest(trunk)
    same = "the same base" if own == read.base else "another base"
    return f" (made on the base {read.base[:12]}…, this is {own[:12]}…: {same})"


def _kept(bank: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in bank.state_dict().items()}


def _restore(banks: Mapping[str, SiteBank], before: Mapping[str, Mapping[str, Tensor]]) -> None:
    for path, bank in banks.items():
        bank.load_state_dict(before[path])


@torch.no_grad()
def _load_head(network: Network, task: str, read: AdapterFile) -> None:
    """One linear layer that fits the task's head; other modules stay with the caller."""
    bank = network.heads.banks[escape(network.tasks[task].group)]
    place = network.tasks.groups[network.tasks[task].group].position[task]
    ends = {name.rpartition(".")[2]: torch.from_numpy(v) for name, v in read.saved.items()}
    own = {name: bank.get_parameter(name)[place] for name in ("weight", "bias")}
    fits = len(read.saved) == len(ends) and ends.keys() == own.keys()
    if fits and all(own[name].shape == value.shape for name, value in ends.items()):
        for name, value in ends.items():
            own[name].copy_(value)


def _array(value: Tensor) -> Array:
    found: Array = value.detach().float().cpu().numpy()
    return found
