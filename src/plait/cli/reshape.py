"""``plait extract``, ``plait stack`` and ``plait upcycle``: other forms of models you have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="Replace the folder if it is there already.")
]
Threads = Annotated[int, typer.Option(help="Threads; as many as cores unless said.")]


def extract(
    model: Annotated[Path, typer.Argument(help="The tuned model: a file or a folder.")],
    base: Annotated[Path, typer.Option(help="The model it was made from.")],
    out: Out,
    rank: Annotated[int, typer.Option(help="The most that a layer's factors may have.")] = 128,
    leave_biases: Annotated[
        bool, typer.Option("--leave-biases", help="Leave changed biases the base's.")
    ] = False,
    replace: Replace = False,
) -> None:
    """Write the LoRA adapter nearest to what tuning has changed, as peft loads it."""
    from plait.cli import console
    from plait.merging.reshaping import extract_folder

    biases = "leave" if leave_biases else "refuse"
    found = extract_folder(model, base, out, rank=rank, biases=biases, overwrite=replace)  # type: ignore[arg-type]
    ranks = found.config["rank_pattern"]
    whole = f", {len(found.saved)} tensors whole" if found.saved else ""
    console.say(
        f"Written: {out}: {len(ranks)} layers of rank {max(ranks.values())} at most{whole}."
    )


def stack(
    slices: Annotated[
        list[str], typer.Argument(metavar="MODEL:START:STOP...", help="Blocks START to STOP − 1.")
    ],
    out: Out,
    outside: Annotated[
        Path | None, typer.Option(help="Whose embeddings, norm and head; the first model's.")
    ] = None,
    workers: Threads = 0,
    replace: Replace = False,
) -> None:
    """Stack blocks of one or several models, every tensor a copy (passthrough)."""
    from plait.cli import console
    from plait.merging.reshaping import stack_folder

    rows = [_slice(text) for text in slices]
    stack_folder(rows, out, outside=outside, overwrite=replace, workers=_threads(workers))
    blocks = sum(stop - start for _, start, stop in rows)
    console.say(f"Written: {out}: {blocks} blocks.")


def upcycle(
    models: Annotated[list[Path], typer.Argument(help="The dense models, one for each expert.")],
    out: Out,
    base: Annotated[
        Path | None, typer.Option(help="Whose attention and embeddings; the first model's.")
    ] = None,
    chosen: Annotated[int, typer.Option(help="Experts that a token takes.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the routers, which are new.")] = 0,
    workers: Threads = 0,
    replace: Replace = False,
) -> None:
    """Make the MLPs of Llama or Mistral models the experts of one Mixtral, to be trained on."""
    from plait.cli import console
    from plait.merging.reshaping import upcycle_folder
    from plait.recipes.merge import named_paths

    upcycle_folder(
        named_paths(models), out, base=base, chosen=chosen, seed=seed, overwrite=replace,
        workers=_threads(workers),
    )  # fmt: skip
    console.say(
        f"Written: {out}: {len(models)} experts, {chosen} for a token; the routers are new, and "
        "are to be trained."
    )


def _slice(text: str) -> tuple[Path, int, int]:
    from plait.cli.console import InputError

    path, *ends = text.rsplit(":", 2)
    if not path or len(ends) != 2 or not all(end.isdecimal() for end in ends):
        raise InputError(f"{text!r} is no MODEL:START:STOP, such as model:0:8")
    return Path(path), int(ends[0]), int(ends[1])


def _threads(workers: int) -> int:
    return workers or min(os.cpu_count() or 1, 8)
