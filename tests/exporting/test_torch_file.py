from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from exports import columns_of, fresh_rows

from plait.comparing import Study
from plait.exporting import ExportError, export_torch


def columns(rows: pl.DataFrame, told: dict) -> dict[str, torch.Tensor]:
    """A table as a program without plait feeds it."""
    found = {}
    for name in rows.columns:
        if name in told["categories"]:
            places = {value: place for place, value in enumerate(told["categories"][name], 1)}
            codes = [places.get(value, 0) for value in rows[name]]
            found[name] = torch.tensor(codes)
        else:
            numbers = rows[name].cast(pl.Float64).fill_null(float("nan"))
            found[name] = torch.from_numpy(numbers.to_numpy(writable=True))
    return found


SLOW = [pytest.param(label, marks=pytest.mark.slow) for label in ("adapted", "separate")]


@pytest.mark.parametrize("label", ["joint", "experts", *SLOW])
def test_the_file_predicts_what_plait_predicts(exported: Study, tmp_path: Path, label: str) -> None:
    predictor, path, rows = exported.best(label), tmp_path / "model.pt2", fresh_rows()
    told = export_torch(predictor, path, rows=rows)
    assert told["difference"] <= 1e-5
    inside = {"plait.json": ""}
    program = torch.export.load(path, extra_files=inside).module()
    assert json.loads(inside["plait.json"])["outputs"]["stars"]["kind"] == "ordinal"
    for some in (rows, rows.head(1), pl.concat([rows] * 3)):
        found = program(part=columns(some, json.loads(inside["plait.json"])))
        ours = predictor.predict(some)
        for task in predictor.tasks:
            mine = columns_of(ours, task)
            np.testing.assert_allclose(found[task].numpy(), mine, rtol=1e-5, atol=1e-5)


def test_texts_are_token_numbers(on_text: Study, tmp_path: Path, texts: Path) -> None:
    rows = pl.read_parquet(texts / "rows.parquet").head(12)
    with pytest.raises(ExportError, match="--tokens"):
        export_torch(on_text.best("joint"), tmp_path / "m.pt2", rows=rows)
    told = export_torch(on_text.best("joint"), tmp_path / "m.pt2", rows=rows, tokens=True)
    assert told["difference"] <= 1e-5


def test_baselines_are_refused(exported: Study, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"only networks .* use --onnx"):
        export_torch(exported.best("forest"), tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []


class Counting(torch.nn.Module):
    """A module that branches on a value: no graph holds for all rows."""

    width = 2

    def forward(self, parts):
        x = torch.cat([part["numeric"][:, :2] for part in parts.values()])
        return x if x.sum().item() > 0 else -x


def test_modules_that_cannot_be_followed_say_why(tmp_path: Path) -> None:
    from exports import compared, table

    encoder = {"module": "test_torch_file:Counting"}
    study = compared(
        table(80).select("x0", "x2", "ripe"), tmp_path / "run", ["ripe"], strategies=["joint"],
        encoder=encoder,
    )  # fmt: skip
    with pytest.raises(ExportError, match="must not branch on values"):
        export_torch(study.best("joint"), tmp_path / "m.pt2")
    assert not (tmp_path / "m.pt2").exists()
