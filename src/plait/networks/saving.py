"""Networks as folders: safetensors and JSON, no pickle, whole after any crash.

``model.safetensors`` is the truth and replaced in one piece: its metadata hold the configuration
from which an equal network is built. ``config.json`` is a readable copy. Task names are data in the
configuration, never names of tensors or files, so any name is safe. Frozen tensors stand in a file
named by its contents, which many networks can share.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from plait.method import MethodError
from plait.networks.network import Network
from plait.weights.files import DamagedError, replacing, write_json
from plait.weights.states import AGAIN, read_header

FORMAT = 1
MOST = 10  # tensors named in one message
MODEL = "model.safetensors"
CONFIG = "config.json"

# The kinds of network and what rebuilds them; by name, for `adapting` stands above this room.
REBUILD: Mapping[str, str] = {
    "network": "plait.networks.network",
    "side_by_side": "plait.networks.side_by_side",
    "members": "plait.networks.members",
    "adapted": "plait.adapting.adapted",
    "changed": "plait.comparing.changed",
}


def save(network: Network, folder: Path, frozen: Path | None = None) -> None:
    """Write a network; see :meth:`Network.save_pretrained`."""
    folder.mkdir(parents=True, exist_ok=True)
    own, still = _tensors(network)
    config: dict[str, Any] = {"format": FORMAT, **network.config}
    if still:
        config["frozen"] = _save_frozen(still, folder, frozen or folder)
    metadata = {"format": "pt", "plait": json.dumps(config, ensure_ascii=False)}
    with replacing(folder / MODEL) as path:
        save_file(own, path, metadata=metadata)
    write_json(folder / CONFIG, config)


def load(folder: Path) -> Network:
    """Read a network; :class:`DamagedError` names the file, the tensor and what is wrong."""
    path = folder / MODEL
    if not path.is_file():
        whole = (folder / "model.json").is_file() and (folder / "network" / MODEL).is_file()
        hint = f"; it is a whole model, read by plait.load, its network in {folder / 'network'}"
        raise DamagedError(f"no network in {folder}: {MODEL} is missing{hint if whole else ''}")
    tensors, metadata = _read(path)
    if "plait" not in metadata:
        raise DamagedError(f"{path} was not written by plait: its metadata hold no configuration")
    config = _config(path, metadata["plait"])
    still = config.pop("frozen", None)
    if still is not None:
        tensors |= _read_frozen(folder, still, path)
    try:
        network = rebuild(config)
    except KeyError as error:
        raise DamagedError(f"{path}: its configuration lacks {error}; {AGAIN}") from error
    except MethodError as error:
        raise DamagedError(f"{path}: {error}{_hint(error)}") from error
    except (TypeError, AttributeError, ValueError, RuntimeError, IndexError) as error:
        raise DamagedError(f"{path}: its configuration does not hold: {error}") from error
    network.config = config
    _fill(network, tensors, path)
    return network


def _config(path: Path, text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DamagedError(f"{path}: its configuration is not JSON ({error}); {AGAIN}") from error
    if not isinstance(config, dict):
        raise DamagedError(f"{path}: its configuration is no mapping; {AGAIN}")
    if (version := config.pop("format", None)) != FORMAT:
        raise DamagedError(
            f"{path} has format {version}; this plait reads {FORMAT}{newer(version)}"
        )
    return config


def newer(version: Any) -> str:
    """What to do about a format that is not this plait's."""
    known = isinstance(version, int) and version > FORMAT
    return ": a newer plait wrote it, so pip install -U plait" if known else ""


def _hint(error: MethodError) -> str:
    """Modules of the user's own must be there to be loaded."""
    if "cannot load the module" not in str(error):
        return ""
    return "; install the package that it comes from, or put its folder on PYTHONPATH"


def rebuild(config: Mapping[str, Any]) -> Network:
    """A network of the shape that a ``config`` describes; ``ValueError`` for an unknown kind."""
    if config.get("kind") not in REBUILD:
        raise ValueError(f"no kind of network {config.get('kind')!r}; is it of a newer plait?")
    make: Callable[[Mapping[str, Any]], Network] = import_module(REBUILD[config["kind"]]).rebuild
    return make(config)


def _tensors(network: Network) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's tensors, trained and frozen; a tensor with several names appears once."""
    kept = network.state_dict(keep_vars=True)
    own: dict[str, Tensor] = {}
    still: dict[str, Tensor] = {}
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        if name in kept:
            fixed = isinstance(tensor, torch.nn.Parameter) and not tensor.requires_grad
            (still if fixed else own)[name] = tensor.detach().cpu().contiguous()
    return own, still


def _save_frozen(tensors: dict[str, Tensor], folder: Path, place: Path) -> dict[str, str]:
    digest = _digest(tensors)
    path = place / f"frozen-{digest[:16]}.safetensors"
    if not path.exists():
        place.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(tensors, temporary)
    relative = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    return {"file": relative, "sha256": digest}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        size = path.stat().st_size
        raise DamagedError(f"{path} ({size} bytes) is damaged: {error}; {AGAIN}") from error


# Up to a common folder and down by plain names; what is there must have the contents named.
_FROZEN = re.compile(r"(\.\./)*((?!\.\.?/)[^/\\:]+/)*frozen-[0-9a-f]{16}\.safetensors")


def _read_frozen(folder: Path, told: Any, by: Path) -> dict[str, Tensor]:
    """The frozen tensors that ``by`` names: only by a plain name, and only with those contents."""
    match told:
        case {"file": str(file), "sha256": str(sha256)} if _FROZEN.fullmatch(file):
            path = folder / file
        case _:
            raise DamagedError(f"{by}: not a name for frozen weights: {told!r}; {AGAIN}")
    if not path.is_file():
        message = f"the network's frozen weights are missing: {path}; move them along with it"
        raise DamagedError(message)
    tensors = _read(path)[0]
    if _digest(tensors) != sha256:
        raise DamagedError(f"{path}: these are not the frozen weights that {by} names; {AGAIN}")
    return tensors


def _fill(network: Network, tensors: Mapping[str, Tensor], path: Path) -> None:
    kept = network.state_dict(keep_vars=True)
    both = chain(network.named_parameters(), network.named_buffers())
    own = {name: tensor for name, tensor in both if name in kept}
    wrong = [f"missing {name}" for name in own if name not in tensors]
    wrong += [f"unknown {name}" for name in tensors if name not in own]
    types: dict[torch.dtype, torch.dtype] = {}  # what each type of the shape is in the file
    for name in own.keys() & tensors.keys():
        mine, given = own[name], tensors[name]
        if mine.shape != given.shape:
            wrong.append(f"{name} has shape {tuple(given.shape)}, not {tuple(mine.shape)}")
        elif mine.is_floating_point() != given.is_floating_point():
            wrong.append(f"{name} has type {given.dtype}, not {mine.dtype}")
        elif types.setdefault(mine.dtype, given.dtype) != given.dtype:
            wrong.append(f"{name} has type {given.dtype}, others {types[mine.dtype]}")
        elif not torch.isfinite(given).all():
            wrong.append(f"{name} holds NaN or infinite values")
    if wrong:
        listed = "; ".join(sorted(wrong)[:MOST]) + ("; …" if len(wrong) > MOST else "")
        raise DamagedError(f"{path} does not fit its configuration: {listed}; {AGAIN}")
    for name, tensor in own.items():
        # Kept in the layout it was built with: products round differently in another.
        tensor.data = torch.empty_like(tensor, dtype=tensors[name].dtype).copy_(tensors[name])
