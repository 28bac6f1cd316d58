"""``plait report``: what a run has found so far."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

STDOUT = Path("-")


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    html: Annotated[bool, typer.Option("--html", help="One page that needs nothing else.")] = False,
    md: Annotated[bool, typer.Option("--md", help="Markdown.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="LaTeX tables.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Every figure, one a row.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A file; - prints. Default: RUN/report.html, or print."),
    ] = None,
) -> None:
    """Write the report of a run, finished or not."""
    from plait.cli import console
    from plait.comparing import Study
    from plait.comparing.report import FORMATS, write

    flags = {"html": html, "markdown": md, "latex": latex, "csv": csv}
    chosen = [name for name, given in flags.items() if given]
    if len(chosen) > 1:
        raise typer.BadParameter("choose one of --html, --md, --latex and --csv")
    kind = chosen[0] if chosen else None
    results = Study.open(run).results
    if out is None:
        out = run / "report.html" if kind in {None, "html"} else STDOUT
    if out == STDOUT:
        sys.stdout.write(FORMATS[kind or "html"](results))
    else:
        console.say(f"Written: {write(results, out, kind)}")
