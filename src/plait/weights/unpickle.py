"""A pickle's tensors as a safetensors file: the program that runs in a process of its own.

Run as ``python -P -m plait.weights.unpickle``. One JSON request comes in by standard input, one
JSON answer goes out: what was written, what was left out, or what is wrong. The file is read with
``weights_only=True``, which builds tensors and plain containers and calls nothing else, and only
after the limits on memory and time are set.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plait.weights.folders import Growing
from plait.weights.states import LONGEST_NAME, MOST_TENSORS

NESTED = ("state_dict", "model_state_dict", "model", "module", "params", "weights")
KINDS: Mapping[str, str] = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32",
    "int32": "I32", "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16",
    "float32": "F32", "float64": "F64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "complex64": "C64",
}  # fmt: skip
GLOBAL = re.compile(r"unsupported global:? (?:GLOBAL )?(\S+)", re.IGNORECASE)
SHOWN = 80  # letters of a name that a message shows


class RefusedError(ValueError):
    """What the file holds cannot be converted, in words for its owner."""


def main() -> None:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    import torch

    torch.set_num_threads(1)
    limit(request["memory"], request["seconds"])
    try:
        answer = convert(Path(request["source"]), Path(request["target"]), request)
    except RefusedError as error:
        answer = {"wrong": str(error)}
    except MemoryError:
        answer = {"memory": True}
    except Exception as error:  # whatever a damaged file makes the reader say
        text = str(error)
        short = "allocate memory" in text or "unable to mmap" in text
        answer = {"memory": True} if short else {"wrong": explained(error)}
    json.dump(answer, sys.stdout)


def limit(memory: int, seconds: int) -> None:
    """Allow so many bytes beyond what this process has now, and so much CPU time."""
    try:
        import resource
    except ImportError:  # Windows: the time alone is limited, by the process that waits
        return
    own = Path("/proc/self/statm")
    if own.is_file():
        used = int(own.read_text("ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def convert(source: Path, target: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Write the tensors of a pickle to ``target``; what was written and what was left out."""
    import torch

    mapped = zipfile.is_zipfile(source)  # older files are one stream, and are read whole
    found = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    state, under, left = chosen(found, request["key"])
    owners, tied = ties(state)
    laid = {name: (KINDS[str(t.dtype)[6:]], tuple(t.shape)) for name, t in owners.items()}
    total = sum(tensor.numel() * tensor.element_size() for tensor in owners.values())
    if total > request["memory"]:
        raise RefusedError(f"its tensors claim {total:,} bytes, more than --memory allows")
    file = Growing(target, laid, tied)
    try:
        for name, tensor in owners.items():
            flat = tensor.detach().contiguous().reshape(-1)
            file.write(name, 0, flat.view(torch.uint8).numpy())
        file.finish()
    finally:
        file.drop()
    return {"tensors": list(owners), "bytes": total, "tied": tied, "under": under, "left": left}


def chosen(found: Any, key: str | None) -> tuple[dict[str, Any], str | None, list[str]]:
    """The tensors by name, the key they stood under, and the names of all that is left out."""
    if not isinstance(found, dict):
        raise RefusedError(f"it holds {what(found)} and no tensors by name")
    options = [name for name, value in found.items() if isinstance(value, dict) and any_in(value)]
    under = key
    if under is None and not any_in(found):
        under = next((name for name in NESTED if name in options), None)
        under = options[0] if under is None and len(options) == 1 else under
    if under is not None and under not in options:
        raise RefusedError(f"it has no tensors under {under!r}{listed(options)}")
    inner = found if under is None else found[under]
    if not any_in(inner):
        raise RefusedError(f"it has no tensors by name{listed(options)}")
    left = [] if under is None else list(left_out(found, skip=under))
    left += left_out(inner, prefix="" if under is None else f"{under}.")
    state = {name: value for name, value in inner.items() if is_named(name, value)}
    check(state)
    return state, under, left


def check(state: Mapping[str, Any]) -> None:
    """Refuse tensors that a safetensors file cannot hold, all of them named at once."""
    wrong = []
    for name, tensor in state.items():
        if len(name) > LONGEST_NAME:
            wrong.append(f"{name[:SHOWN]!r}… has a name of {len(name):,} letters")
        elif name == "__metadata__":
            wrong.append(f"{name!r} cannot be a tensor's name in safetensors")
        elif tensor.is_sparse or "sparse" in str(tensor.layout) or tensor.is_quantized:
            sort = "quantized" if tensor.is_quantized else "sparse"
            wrong.append(f"{name[:SHOWN]!r} is {sort}; save it dense")
        elif tensor.is_meta:
            wrong.append(f"{name[:SHOWN]!r} has no values (it is on the device 'meta')")
        elif str(tensor.dtype)[6:] not in KINDS:
            wrong.append(f"{name[:SHOWN]!r} is {str(tensor.dtype)[6:]}, which safetensors lacks")
    if len(state) > MOST_TENSORS:
        wrong.append(f"it has {len(state):,} tensors; at most {MOST_TENSORS:,} are read")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise RefusedError("; ".join(wrong[:5]) + more)


def ties(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """One tensor for each place in memory, and the first name of each that shares one."""
    owners: dict[str, Any] = {}
    tied: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        owner = first.setdefault(place, name) if tensor.numel() else name
        if owner == name or name == "format":  # the metadata have a word of that name already
            owners[name] = tensor
        else:
            tied[name] = owner
    return owners, tied


def left_out(found: Mapping[Any, Any], prefix: str = "", skip: str | None = None) -> Iterator[str]:
    """What is no tensor by name, each with its place and what it is."""
    for name, value in found.items():
        if name != skip and not is_named(name, value):
            yield f"{prefix}{str(name)[:SHOWN]} ({what(value)})"


def is_named(name: Any, value: Any) -> bool:
    """Whether it is a tensor under a name."""
    import torch

    return isinstance(name, str) and isinstance(value, torch.Tensor)


def any_in(found: Mapping[Any, Any]) -> bool:
    """Whether there are tensors by name in a mapping."""
    return any(is_named(name, value) for name, value in found.items())


def what(value: Any) -> str:
    """A value in a few words."""
    import torch

    kind = type(value).__name__
    if isinstance(value, torch.Tensor):
        return "tensor"
    if isinstance(value, (dict, list, tuple, set)):
        return f"{kind} of {len(value)}"
    return kind if value is None or isinstance(value, bytes) else f"{kind} {str(value)[:40]!r}"


def listed(options: list[Any]) -> str:
    """The end of a message: what may be chosen."""
    names = ", ".join(repr(str(name)[:SHOWN]) for name in options[:10])
    return f"; say which with --key: {names}" if options else ""


def explained(error: Exception) -> str:
    """What the reader of pickles said, in words for the owner of the file."""
    text = str(error)
    if (named := GLOBAL.search(text)) is not None:
        return (
            f"it holds an object ({named[1]}) that takes a program to build, and none is run; ask "
            "for a file of tensors alone (a state dict)"
        )
    if "TorchScript" in text:
        return "it is a TorchScript program and no file of tensors; ask for a state dict"
    for mark in ("WeightsUnpickler error: ", "Weights only load failed"):  # then comes bad advice
        if mark in text:
            text = text.partition(mark)[2] if mark.endswith(" ") else "torch.save did not write it"
    first = text.strip().split("\n", 1)[0][:200]
    return f"not readable as a file of tensors: {first or type(error).__name__}"


if __name__ == "__main__":
    main()
