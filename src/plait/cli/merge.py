"""``plait merge``: several checkpoints of one base become one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from plait.merging.base import Merged
    from plait.merging.jobs import Job
    from plait.merging.pool import Pool

PAIRS = 10  # shown one by one


def merge(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RECIPE|MODEL...", help="A recipe (YAML), or the models: files or folders."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The merged folder.")] = None,
    method: Annotated[
        str | None, typer.Option(help="Its name, or '{ties: {keep: 0.1}}'; see plait methods.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="The model they were made from.")] = None,
    tokenizer: Annotated[
        str, typer.Option(help="base: take the base's although others differ; else refuse.")
    ] = "refuse",
    workers: Annotated[int, typer.Option(help="Threads; as many as cores unless said.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compare the models and say what would be done.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the folder if it is there already.")
    ] = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Merge NaN and infinite weights as they are.")
    ] = False,
    check: Annotated[
        Path | None,
        typer.Option("--check", help="A text: perplexity on it, of the merge and the models."),
    ] = None,
    verify: Annotated[
        Path | None, typer.Option("--verify", help="Only check a merged folder's files.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Merge checkpoints (safetensors, LoRA adapters) into one, in a few tens of megabytes.

    Everything is compared before a tensor is read. The folder appears when it is whole; the same
    command goes on from where it was stopped.
    """
    from plait.cli import console

    if verify is not None:
        _verify(verify, as_json=as_json)
        return
    job = _job(models or [], method, base, tokenizer, allow_nonfinite=allow_nonfinite)
    if out is None and not dry_run:
        raise console.InputError("say where to write: -o FOLDER")
    if dry_run:
        _tell(job.pool(), job, as_json=as_json)
        return
    assert out is not None
    text = "" if check is None else _text(check)
    threads = workers or min(os.cpu_count() or 1, 8)
    merged = job.run(out, workers=threads, replace=replace)
    _say_what_was_made(job, out, merged, _checked(job, out, text) if text else {}, as_json=as_json)


def _say_what_was_made(
    job: Job, out: Path, merged: Merged, perplexity: dict[str, float], *, as_json: bool
) -> None:
    from plait.cli import console
    from plait.merging.jobs import ABOUT
    from plait.weights.files import read_json

    if as_json:
        told = {"out": str(out), "recipe": job.spelled(), "evidence": dict(merged.evidence)}
        console.dump({**told, **({"perplexity": perplexity} if perplexity else {})})
        return
    chosen = "".join(
        f"; {key} {value}" for key, value in merged.evidence.items() if key != "search"
    )
    for doubt in read_json(out / ABOUT)["kinship"]["doubts"]:
        console.warn(doubt)
    console.say(f"Written: {out}: {_count(job)} merged by {job.method.card.name}{chosen}.")
    if perplexity:
        console.say("Perplexity on the text:")
        for name, value in perplexity.items():
            console.say(f"- {name}: {value:.2f}")


def _job(
    models: list[Path], method: str | None, base: Path | None, tokenizer: str, *,
    allow_nonfinite: bool,
) -> Job:  # fmt: skip
    from plait.cli import console
    from plait.merging.jobs import Job
    from plait.recipes.merge import named_paths, parse_method, read_merge

    if not models:
        raise console.InputError("name a recipe, or models with --method and --base")
    if tokenizer not in ("base", "refuse"):
        raise console.InputError(f"--tokenizer is base or refuse, not {tokenizer!r}")
    if len(models) == 1 and models[0].suffix.lower() in {".yaml", ".yml"}:
        if method is not None or base is not None:
            raise console.InputError("a recipe says method and base itself; leave out the options")
        job = read_merge(models[0])
        for note in job.notes:
            console.warn(note)
        return job
    if method is None:
        raise console.InputError("say how to merge: --method NAME (see plait methods)")
    return Job(
        models=named_paths(models),
        method=parse_method(method),
        base=base,
        tokenizer="base" if tokenizer == "base" else "refuse",
        allow_nonfinite=allow_nonfinite,
    )


def _text(path: Path) -> str:
    """A text to check on; it is read before anything is merged."""
    from plait.cli import console

    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise console.InputError(f"{path} is no text in UTF-8") from error
    if not text.strip():
        raise console.InputError(f"{path} has no text in it")
    return text


def _checked(job: Job, out: Path, text: str) -> dict[str, float]:
    """The perplexity of the base, the models and the merge."""
    from plait.flows.checking import perplexities

    base = {} if job.base is None else {"the base": job.base}
    models = {name: one for name, one in job.models.items() if isinstance(one, Path)}
    return perplexities({**base, **models, "the merge": out}, text, job.base)


def _tell(pool: Pool, job: Job, *, as_json: bool) -> None:
    from plait.cli import console
    from plait.merging.kinship import kinship

    kin = kinship(pool)
    size = sum(site.bytes for site in pool.sites)
    parameters = sum(site.size for site in pool.sites)
    copied = sum(1 for site in pool.sites if not site.floating)
    if as_json:
        told: dict[str, Any] = {"recipe": job.spelled(), "tensors": len(pool.sites)}
        console.dump({**told, "parameters": parameters, "bytes": size, "copied": copied,
                      "kinship": kin.told()})  # fmt: skip
        return
    console.say(
        f"{_count(job)} fit: {len(pool.sites):,} tensors, {parameters / 1e6:,.1f} million "
        f"parameters, {size / 1e9:,.2f} GB to write"
        + (f"; {copied} integer tensors are copied." if copied else ".")
    )
    for name in job.steps:
        console.say(f"- {name} is merged first; distances are told once it is there")
    for name, distance in kin.distances.items():
        if name in job.steps:
            continue
        console.say(f"- {name} differs from {kin.origin} by {distance:.2%} of its norm")
    pairs = [(pair, cosine) for pair, cosine in kin.cosines.items() if not job.steps.keys() & pair]
    for (one, other), cosine in pairs[:PAIRS]:
        console.say(f"- the task vectors of {one} and {other} have the cosine {cosine:.2f}")
    for doubt in () if job.steps else kin.doubts():
        console.warn(doubt)


def _count(job: Job) -> str:
    return f"{len(job.models)} {'model' if len(job.models) == 1 else 'models'}"


def _verify(folder: Path, *, as_json: bool) -> None:
    from plait.cli import console
    from plait.weights.checkpoints import open_checkpoint
    from plait.weights.files import verify

    manifest = verify(folder)
    tensors = len(open_checkpoint(folder).sites)
    if as_json:
        console.dump({"folder": str(folder), "files": len(manifest["files"]), "tensors": tensors})
        return
    files = len(manifest["files"])
    console.say(f"{folder} is whole: {files} files as the manifest has them, {tensors:,} tensors.")
