"""Tables that commands write: Parquet, or CSV that no spreadsheet takes for formulas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


def write(frame: pl.DataFrame, path: Path) -> None:
    """Write by the name's ending, in one piece or not at all. Raises ``ValueError`` for others."""
    from plait.weights.files import replacing

    kind = ending(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        if kind == "parquet":
            frame.write_parquet(temporary)
        else:
            harmless(frame).write_csv(temporary, separator="\t" if kind == "tsv" else ",")


def ending(path: Path) -> str:
    """``parquet``, ``csv`` or ``tsv``. Raises ``ValueError`` for other names."""
    kind = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv"}.get(
        path.suffix.lower()
    )
    if kind is None:
        raise ValueError(f"{path}: unknown format {path.suffix!r}; end it in .parquet or .csv")
    return kind


def harmless(frame: pl.DataFrame) -> pl.DataFrame:
    """Text cells and headings that start like a formula get a leading apostrophe."""
    import polars as pl

    from plait.comparing.escaping import FORMULA

    words = (pl.String, pl.Categorical, pl.Enum)
    text = [name for name, dtype in frame.schema.items() if dtype in words]
    prefixed = frame.with_columns(pl.col(text).cast(pl.String)).with_columns(
        pl.when(pl.col(name).str.slice(0, 1).is_in(list(FORMULA)))
        .then("'" + pl.col(name))
        .otherwise(pl.col(name))
        .alias(name)
        for name in text
    )
    return prefixed.rename({n: f"'{n}" for n in prefixed.columns if n.startswith(tuple(FORMULA))})
