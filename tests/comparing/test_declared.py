from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from studies import schools, table

from plait.comparing.declared import Declared
from plait.data import DataSpec, SplitSpec, TableSpec, TaskSpec
from plait.data.text import text_of


def declared(source: object, **given: object) -> Declared:
    data = DataSpec(tables={"rows": TableSpec(source=source, ignore=["x3"])}, **given)
    return Declared(data=data, tasks={"price": TaskSpec(target="price", kind="real")})


def test_a_declaration_can_be_kept_moved_and_loaded_again(tmp_path: Path) -> None:
    given = declared(table(60), split=SplitSpec(kind="random", seed=3))
    run = tmp_path / "run"
    kept = given.kept(run / "data")
    told = json.loads(json.dumps(kept.to_json(run)))
    assert told["data"]["tables"]["rows"]["source"] == "data/rows.parquet"
    moved = Path(shutil.move(run, tmp_path / "elsewhere"))
    again = Declared.from_json(told, moved)
    assert again.load().fingerprint == given.load().fingerprint
    assert again.load(1).fingerprint == given.load(1).fingerprint != given.load().fingerprint


def test_arrays_with_more_than_one_dimension_are_kept_as_npz(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, size=(40, 8, 8)).astype(np.uint8)
    arrays = {
        "image": images,
        "dark": (images.mean((1, 2)) < 128).astype(int),
        "room": np.array(["a", "b"] * 20),
    }
    given = Declared(
        data=DataSpec(tables={"t": TableSpec(source=arrays)}), tasks={"dark": TaskSpec()}
    )
    kept = given.kept(tmp_path)
    assert (tmp_path / "t.npz").exists()
    assert kept.load().fingerprint == given.load().fingerprint


def test_hub_data_sets_keep_the_names_of_their_classes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"x": datasets.Value("float64"), "y": datasets.ClassLabel(names=["no", "maybe", "yes"])}
    )
    numbers = np.random.default_rng(0)
    rows = {"x": numbers.normal(size=60).tolist(), "y": numbers.choice(3, 60).tolist()}
    source = datasets.Dataset.from_dict(rows, features=features)
    given = Declared(data=DataSpec(tables={"t": TableSpec(source=source)}), tasks={"y": TaskSpec()})
    kept = given.kept(tmp_path).load()
    assert kept.tasks["y"].kind == "classes"
    assert set(kept.tasks["y"].classes) == {"no", "maybe", "yes"}


def test_a_split_that_is_given_cannot_be_drawn_again() -> None:
    given = Declared(
        data=DataSpec(
            tables={"t": TableSpec(source=schools())}, split=SplitSpec(kind="column", by="split")
        ),
        tasks={"score": TaskSpec()},
    )
    given.load()
    with pytest.raises(ValueError, match="a split by column is always the same"):
        given.load(1)


def test_texts_are_read_as_the_encoder_wants_them() -> None:
    assert text_of({}) == {"bag": {}}
    assert text_of({"text": "bag"}) == {"bag": {}}
    assert text_of({"text": {"transformer": {"pretrained": "x"}}}) == {
        "transformer": {"pretrained": "x"}
    }
