"""``plait export``: a model as a file or a folder that other programs run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def export(
    model: Annotated[Path, typer.Argument(help="The folder of a model, or of a run.")],
    onnx: Annotated[
        Path | None, typer.Option("--onnx", help="An ONNX file, with the preprocessing inside.")
    ] = None,
    torch: Annotated[
        Path | None, typer.Option("--torch", help="A torch.export file (.pt2) of networks.")
    ] = None,
    hf: Annotated[
        Path | None, typer.Option("--hf", help="A folder for transformers and peft.")
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help="A table to check on; without it rows are made up.")
    ] = None,
    of: Annotated[
        str | None, typer.Option("--table", help="Which of the study's tables the file reads.")
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Take token numbers in place of texts.")
    ] = False,
) -> None:
    """Write a model for other programs, and check that it predicts the same there.

    Nothing is written where predictions differ by more than 1e-5.
    """
    from plait.cli import console
    from plait.cli.models import load
    from plait.data.sources import read
    from plait.exporting import export_hf, export_onnx, export_torch

    if onnx is None and torch is None and hf is None:
        raise console.InputError("say what to write: --onnx FILE, --torch FILE or --hf FOLDER")
    for path, ending in ((onnx, ".onnx"), (torch, ".pt2")):
        if path is not None and path.suffix != ending:
            raise console.InputError(f"{path}: give it the ending {ending}")
    table = _own(model, of) if rows is None else read(rows, "rows")
    predictor = load(model)
    given: dict[str, Any] = {"rows": table, "table": of}
    if onnx is not None:
        _say(onnx, "onnxruntime", export_onnx(predictor, onnx, tokens=tokens, **given))
    if torch is not None:
        _say(torch, "torch.export", export_torch(predictor, torch, tokens=tokens, **given))
    if hf is not None:
        _say(hf, "transformers", export_hf(predictor, hf, **given))


def _own(model: Path, of: str | None) -> Any:
    """The table that a run was made from, where the model is a run's and the table still there."""
    from plait.comparing import Study
    from plait.data import DataError
    from plait.data.sources import read

    declared = Study.open(model).declared if (model / "study.json").is_file() else None
    if declared is None:
        return None
    tables = declared.data.tables
    name = of or next(iter(tables))
    if name not in tables or (of is None and len(tables) > 1):
        return None
    try:
        return read(tables[name].source, name, declared.base)
    except DataError:
        return None


def _say(path: Path, library: str, told: dict[str, Any]) -> None:
    from plait.cli import console

    rows = f"{told['checked']} {'rows' if told['real'] else 'made-up rows'}"
    count = len(told["outputs"])
    console.say(
        f"Written: {path}: {count} {'task' if count == 1 else 'tasks'}; with {library} the "
        f"predictions on {rows} differ by at most {told['difference']:.1e}."
    )
