"""Small studies whose tasks label tokens, from the table to the report and the model."""

from __future__ import annotations

import numpy as np
import polars as pl

import plait
from plait.comparing import Progress
from plait.data import DataSpec, TableSpec

ATTENTION = {"attention": {"width": 8, "heads": 2, "depth": 2}}


def test_sentences_are_compared_inside_a_transformer_and_one_above_the_other(tmp_path):
    random = np.random.default_rng(0)
    words = [[f"w{n}" for n in random.integers(0, 4, random.integers(1, 6))] for _ in range(40)]
    frame = pl.DataFrame(
        {
            "words": words,
            "tags": [["B-X" if word == "w0" else "O" for word in own] for own in words],
            "first": [["B" if n == 0 else "O" for n in range(len(own))] for own in words],
            "short": [float(len(own) < 3) for own in words],
            "split": ["train"] * 24 + ["valid"] * 8 + ["test"] * 8,
        }
    )
    study = plait.compare(
        DataSpec(tables={"table": TableSpec(source=frame, types={"words": "sequence"})}),
        {"tags": {}, "first": {}, "short": {}},
        {
            "paths": {"joint": {"sharing": {"m3vit": {"experts": 3, "top": 1}}}},
            "levels": {"joint": {"sharing": {"hmtl": {"under": {"first": "tags"}, "hidden": 4}}}},
        },
        encoder={"sequence": ATTENTION}, training={"passes": 1, "batch": 8}, seeds=1,
        out=tmp_path / "run", progress=Progress(),
    )  # fmt: skip
    assert study.failures() == []
    model = study.best("levels")
    found = model.predict(frame.drop("tags", "first", "short", "split"))
    assert found["tags"].list.len().to_list() == [len(own) for own in words]
