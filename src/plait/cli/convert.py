"""``plait convert``: pickled checkpoints become safetensors, without running what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from plait.weights.pickles import Converted

LEFT = 30  # shown one by one


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(help="A pickle (.bin, .pt, .pth, .ckpt), or a folder of them.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A folder; without it, beside the pickle."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Where in the file the tensors are, if that is unclear.")
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(help="What reading may take, in GiB; twice the file and one more."),
    ] = None,
    time: Annotated[str, typer.Option(help="The longest that reading a file may take.")] = "10m",
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace safetensors files that are there already.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a pickled checkpoint as safetensors; nothing in it is run.

    It is read in a process of its own that builds tensors and nothing else, within limits. All
    that is no tensor is named and left out; tied tensors are stored once and stay tied.
    """
    from plait.cli import console
    from plait.cli.units import seconds
    from plait.weights.pickles import GIB
    from plait.weights.pickles import convert as converted

    if memory is not None and not memory > 0:
        raise console.InputError(f"--memory is a number of GiB above 0, not {memory:g}")
    found = converted(
        checkpoint, out, key=key, memory=None if memory is None else int(memory * GIB),
        seconds=seconds(time), replace=replace,
    )  # fmt: skip
    if as_json:
        console.dump({**vars(found), "files": [str(file) for file in found.files]})
        return
    _tell(found)


def _tell(found: Converted) -> None:
    from plait.cli import console

    for name in found.left[:LEFT]:
        console.warn(f"left out, no tensor by name: {console.one_line(name)}")
    if len(found.left) > LEFT:
        console.warn(f"and {len(found.left) - LEFT:,} more; --json names all of them")
    weights = [file for file in found.files if file.suffix == ".safetensors"]
    count = len(weights)
    home = weights[0] if count == 1 else f"{weights[0].parent}: {count} files and their index"
    under = f", from {', '.join(map(repr, found.under))}" if found.under else ""
    tied = f", {len(found.tied):,} of them tied to another" if found.tied else ""
    console.say(
        f"Written: {home}: {found.tensors + len(found.tied):,} tensors{tied}{under}, "
        f"{found.bytes / 1e9:,.2f} GB."
    )
