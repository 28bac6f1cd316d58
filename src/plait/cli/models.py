"""``plait train`` and ``plait predict``: the model that is used in the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from plait.comparing import Predictor, Study


def train(
    source: Annotated[
        Path, typer.Argument(metavar="STUDY|RUN", help="A study (study.yaml) or a run's folder.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model's folder.")],
    strategy: Annotated[
        str | None, typer.Option(help="Its label; without it, the one that the run chose.")
    ] = None,
) -> None:
    """Train one strategy on all labelled rows and write the model.

    What the study found on validation is kept: passes, coefficients.
    A study that was not run yet is run first, in runs/<name of the study>.
    """
    from plait.cli import console
    from plait.comparing import Study

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise console.InputError(f"{out} exists and is not empty; give another folder with -o")
    study = Study.open(source) if source.is_dir() else _from_file(source, strategy)
    predictor = study.refit(out, strategy)
    words = f"{predictor.about['label']}: {predictor.about['words']}"
    console.say(f"Written: {out}: {words}; trained on all labelled rows.")


def _from_file(source: Path, strategy: str | None) -> Study:
    """The run of a study: the one there is, a new one, or one of the wanted strategy alone."""
    from plait.cli import compare
    from plait.comparing import Study
    from plait.method import did_you_mean

    folder = compare.run_folder(source, None)
    kept = folder / "study.yaml"
    if kept.is_file() and kept.read_text("utf-8") == source.read_text("utf-8-sig"):
        return Study.open(folder)
    if strategy is None:
        return compare.prepare(source, folder).run()
    every = compare.prepare(source, None)
    if strategy not in every.strategies:
        raise ValueError(f"no strategy {strategy!r}{did_you_mean(strategy, every.strategies)}")
    alone = {strategy: every.strategies[strategy]}
    study = Study(
        every.plans[:1], alone, folder=every.folder, seeds=1, title=every.title,
        declared=every.declared, about=every.about, baselines=False,
    )  # fmt: skip
    return study.run()


def predict(
    model: Annotated[Path, typer.Argument(help="The folder of a model, or of a run.")],
    table: Annotated[str, typer.Argument(help="CSV, Parquet or npz; globs allowed.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A file: .parquet or .csv.")],
    ids: Annotated[
        str | None,
        typer.Option("--id", help="Columns to carry along: a,b. Default: the study's id."),
    ] = None,
    of: Annotated[
        str | None, typer.Option("--table", help="Which of the study's tables the rows are like.")
    ] = None,
) -> None:
    """Predict every row of a table; ids are carried along."""
    from plait.cli import console, tables
    from plait.data.sources import read

    tables.ending(out)  # refused before anything is computed
    predictor = load(model)
    known = predictor.about.get("id")
    wanted = [name for name in ids.split(",") if name] if ids else [known] if known else []
    rows = read(table, "rows", None, wanted)
    if ids:
        for name in wanted:
            rows.need(name, "--id")
    kept = [name for name in wanted if name in rows.schema]
    found = predictor.predict(rows, of)
    if kept:
        found = rows.collect(kept).hstack(found.drop(kept, strict=False))
    tables.write(found, out)
    console.say(f"Written: {out}: {len(found):,} rows, {len(predictor.tasks)} tasks.")


def load(model: Path) -> Predictor:
    """The model in a folder, or the chosen one of a run."""
    from plait.comparing import Predictor, Study

    if (model / "study.json").is_file():
        return Study.open(model).best()
    return Predictor.load(model)
