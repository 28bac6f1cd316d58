from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from plait.data import DataError, DataSpec, Preparation, SplitSpec, TableSpec, TaskSpec, load

N = 100
SPLIT = (["train"] * 8 + ["valid", "test"]) * (N // 10)
TRAIN = np.array(SPLIT) == "train"


def columns():
    random = np.random.default_rng(0)
    holes = random.normal(3, 2, N)
    holes[::5] = np.nan
    return {
        "x": random.normal(7, 3, N),
        "holes": holes,
        "colour": random.choice(["red", "green", "blue"], N, p=[0.6, 0.3, 0.1]),
        "code": random.integers(0, 3, N),
        "text": np.array(
            [f"{w} thing number {i}" for i, w in enumerate(random.choice(["a", "b"], N))]
        ),
        "image": random.integers(0, 256, (N, 6, 5, 3)).astype(np.uint8),
        "vector": random.normal(size=(N, 4)),
        "split": np.array(SPLIT),
        "y": np.arange(N) % 2,
    }


def prepared(source=None, **spec):
    data = DataSpec(tables={"t": TableSpec(source=columns() if source is None else source, **spec)})
    return load(data, {"y": TaskSpec()})


def part_of(dataset, rows):
    (part,) = dataset.batch(rows).parts.values()
    return part


def test_numbers_are_standardised_on_train_with_indicators_for_what_misses_there():
    source = columns()
    dataset = prepared(source)
    numeric = part_of(dataset, torch.arange(N))["numeric"].double().numpy()
    roles = dataset.preparation.encodings[0].roles
    assert roles == ("x", "holes")
    assert numeric.shape == (N, 3)  # x, holes, and the indicator of holes
    train = source["x"][TRAIN]
    assert np.allclose(numeric[:, 0], (source["x"] - train.mean()) / train.std(), atol=1e-6)
    missing = np.isnan(source["holes"])
    assert np.array_equal(numeric[:, 2] == 1, missing)
    assert (numeric[missing, 1] == 0).all()
    seen = source["holes"][TRAIN & ~missing]
    expected = (source["holes"][~missing] - seen.mean()) / seen.std()
    assert np.allclose(numeric[~missing, 1], expected, atol=1e-6)


def test_large_numbers_far_from_zero_keep_their_digits():
    source = {"x": 1e9 + np.arange(N), "y": np.arange(N) % 2}
    numeric = part_of(prepared(source), torch.arange(N))["numeric"]
    assert float(numeric.std()) == pytest.approx(1, abs=0.05)
    assert float(numeric.diff(dim=0).std()) < 1e-4


def test_categories_have_codes_from_one_and_zero_for_the_unknown():
    source = columns()
    dataset = prepared(source)
    found = dataset.preparation.inputs["categorical"]
    assert found.sizes == (4, 4)
    codes = part_of(dataset, torch.arange(N))["categorical"]
    assert codes.dtype == torch.long
    order = dataset.preparation.encodings[1].values[0]
    assert order == ("red", "green", "blue")  # by frequency
    assert [order[code - 1] for code in codes[:, 0].tolist()] == source["colour"].tolist()
    new = {name: values[:2].copy() for name, values in source.items()}
    new["colour"] = ["violet", None]
    assert dataset.preparation.encode(pl.DataFrame(new))["categorical"][:, 0].tolist() == [0, 0]


def test_a_value_that_train_lacks_is_unknown():
    source = columns()
    source["colour"][np.flatnonzero(~TRAIN)[0]] = "violet"
    dataset = prepared(source)
    row = torch.tensor([np.flatnonzero(~TRAIN)[0]])
    assert int(part_of(dataset, row)["categorical"][0, 0]) == 0


def test_images_are_brought_to_channels_first_and_standardised_on_train():
    source = columns()
    images = part_of(prepared(source), torch.arange(N))["image.image"].double().numpy()
    pixels = source["image"].transpose(0, 3, 1, 2) / 255
    train = pixels[TRAIN]
    mean, std = train.mean((0, 2, 3)), train.std((0, 2, 3))
    expected = (pixels - mean[:, None, None]) / std[:, None, None]
    assert np.allclose(images, expected, atol=1e-5)


def test_vectors_stay_as_they_are():
    source = columns()
    found = part_of(prepared(source), torch.arange(N))["vector.vector"]
    assert np.allclose(found.numpy(), source["vector"])


def test_changing_test_rows_changes_nothing_else():
    source = columns()
    before = prepared(source)
    changed = {name: values.copy() for name, values in source.items()}
    test = np.array(SPLIT) == "test"
    changed["x"][test] *= 100
    changed["holes"][test] = np.nan
    changed["colour"][test] = "pink"
    changed["image"][test] = 0
    changed["text"][test] = "new"
    after = prepared(changed)
    assert after.preparation.to_json() == before.preparation.to_json()
    rows = torch.from_numpy(np.flatnonzero(TRAIN))
    for key, value in part_of(before, rows).items():
        assert torch.equal(value, part_of(after, rows)[key]), key


def test_new_rows_are_read_as_those_of_the_study():
    source = columns()
    dataset = prepared(source)
    encoded = dataset.preparation.encode(source)
    for key, value in part_of(dataset, torch.arange(N)).items():
        assert torch.equal(encoded[key], value), key


def test_a_preparation_survives_json():
    source = columns()
    preparation = prepared(source).preparation
    back = Preparation.from_json(json.loads(json.dumps(preparation.to_json())))
    assert back.to_json() == preparation.to_json()
    assert back.inputs == preparation.inputs
    one, other = preparation.encode(source), back.encode(source)
    assert all(torch.equal(one[key], other[key]) for key in one)
    with pytest.raises(DataError, match="version 7"):
        Preparation.from_json({**preparation.to_json(), "version": 7})


def test_rows_that_do_not_fit_are_refused_with_row_and_column():
    preparation = prepared().preparation
    few = {name: values[:3].copy() for name, values in columns().items()}
    lacking = {name: values for name, values in few.items() if name != "colour"}
    with pytest.raises(DataError, match="no column 'colour'; did you mean 'colours'"):
        preparation.encode({**lacking, "colours": few["colour"]})
    with pytest.raises(DataError, match=r"row 2: 'x' is inf, which is infinite"):
        preparation.encode({**few, "x": np.array([0, np.inf, 1])})
    with pytest.raises(DataError, match=r"row 2: 'x' is 'word', which is no number"):
        preparation.encode({**few, "x": ["1", "word", "2"]})
    with pytest.raises(DataError, match=r"'vector' has 3 values, but 4 in training"):
        preparation.encode({**few, "vector": np.zeros((3, 3))})
    with pytest.raises(DataError, match=r"images of 'image' are \(3, 7, 5\), but \(3, 6, 5\)"):
        preparation.encode({**few, "image": np.zeros((3, 7, 5, 3), np.uint8)})
    with pytest.raises(DataError, match="no table 'u'"):
        preparation.encode(few, "u")


def test_infinite_inputs_are_refused_while_loading():
    source = columns()
    source["x"][41] = -np.inf
    with pytest.raises(DataError, match=r"row 42: 'x' is -inf"):
        prepared(source)
    source = columns()
    source["vector"][8, 1] = np.nan  # a valid row
    with pytest.raises(DataError, match=r"row 9: 'vector' holds NaN"):
        prepared(source)


def test_image_files_and_bytes_are_read(tmp_path):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (20, 8, 7), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    table = pl.DataFrame({"file": [f"{i}.png" for i in range(20)], "y": [0, 1] * 10})
    table.write_csv(tmp_path / "rows.csv")
    data = DataSpec(tables={"t": TableSpec(source="rows.csv", types={"file": "image"})})
    by_path = load(data, {"y": TaskSpec()}, base=tmp_path)
    blobs = [(tmp_path / f"{i}.png").read_bytes() for i in range(20)]
    by_bytes = prepared(pl.DataFrame({"file": blobs, "y": [0, 1] * 10}))
    by_array = prepared({"file": pixels, "y": np.arange(20) % 2})
    rows = torch.arange(20)
    expected = part_of(by_array, rows)["image.file"]
    assert torch.equal(part_of(by_path, rows)["image.file"], expected)
    assert torch.equal(part_of(by_bytes, rows)["image.file"], expected)
    Image.fromarray(pixels[0][:5]).save(tmp_path / "7.png")
    with pytest.raises(
        DataError, match=r"rows.csv, row 8: 'file': the image is 5 × 7, others are 8 × 7"
    ):
        load(data, {"y": TaskSpec()}, base=tmp_path)
    (tmp_path / "7.png").unlink()
    with pytest.raises(DataError, match=r"rows.csv, row 8: 'file': no image"):
        load(data, {"y": TaskSpec()}, base=tmp_path)


def test_tasks_are_asked_on_their_rows():
    n = 60
    source = {"x": np.arange(float(n)), "school": np.arange(n) % 3 + 1, "y": np.arange(float(n))}
    data = DataSpec(
        tables={"t": TableSpec(source=source)}, split=SplitSpec(kind="stratified", by="school")
    )
    specs = {"exam": TaskSpec(by="school", target="y"), "level": TaskSpec(target="x")}
    dataset = load(data, {"exam": specs["exam"]})
    asked = dataset.preparation.asked({"x": [1.0, 2, 3, 4], "school": [3, 1, 3, 2]}, dataset.tasks)
    records = asked["real"]
    names = [dataset.tasks.names[task] for task in records.task]
    assert names == ["exam[1]", "exam[2]", "exam[3]", "exam[3]"]
    assert records.rows.tolist() == [1, 3, 0, 2]
    with pytest.raises(DataError, match="row 2: no task for school '9'"):
        dataset.preparation.asked({"x": [1.0, 2], "school": [3, 9]}, dataset.tasks)
    some = dataset.tasks.subset(["exam[3]"])
    only = dataset.preparation.asked({"x": [1.0, 2], "school": [3, 1]}, some)
    assert only["real"].rows.tolist() == [0]


def test_every_row_is_asked_for_every_task_without_a_column():
    dataset = prepared()
    asked = dataset.preparation.asked({"x": [1.0, 2.0]}, dataset.tasks)
    assert asked["binary"].rows.tolist() == [0, 1]
    with pytest.raises(DataError, match="no declared task 'z'"):
        dataset.preparation.asked({"x": [1.0]}, dataset.tasks, ["z"])


def test_roles_unify_columns_of_different_tables():
    one = pl.DataFrame({"review": [f"good thing {i}" for i in range(20)], "a": [0, 1] * 10})
    two = pl.DataFrame(
        {"q": [f"good thing {i}" for i in range(20)], "r": ["x"] * 20, "b": [0, 1] * 10}
    )
    tables = {
        "one": TableSpec(source=one, inputs={"text": "review"}),
        "two": TableSpec(source=two, inputs={"text": ["q", "r"]}),
    }
    dataset = load(DataSpec(tables=tables), {"a": TaskSpec(), "b": TaskSpec()})
    assert list(dataset.inputs) == ["text.text"]
    preparation = dataset.preparation
    single = preparation.encode({"review": ["good thing 3"]})["text.text"]
    assert torch.equal(single, preparation.encode(one[3:4])["text.text"])
    pair = preparation.encode({"q": ["good thing 3"], "r": ["x"]})["text.text"]
    assert set(single[0].tolist()) < set(pair[0].tolist())


def test_numbers_absent_from_a_table_count_as_missing():
    one = pl.DataFrame({"u": np.arange(20.0), "v": np.arange(20.0), "a": [0, 1] * 10})
    two = pl.DataFrame({"u": np.arange(20.0), "b": [0, 1] * 10})
    tables = {"one": TableSpec(source=one), "two": TableSpec(source=two)}
    dataset = load(DataSpec(tables=tables), {"a": TaskSpec(), "b": TaskSpec()})
    numeric = part_of(dataset, torch.tensor([0, 25]))["numeric"]
    assert numeric.shape == (2, 3)  # u, v, and the indicator of v
    assert numeric[0, 2] == 0
    assert numeric[1, 1:].tolist() == [0, 1]


def test_a_role_stored_in_two_ways_is_refused():
    one = pl.DataFrame({"u": np.arange(20.0), "a": [0, 1] * 10})
    two = pl.DataFrame({"u": ["x", "y"] * 10, "b": [0, 1] * 10})
    tables = {"one": TableSpec(source=one), "two": TableSpec(source=two)}
    with pytest.raises(DataError, match="'u' is stored as string here and as number in another"):
        load(DataSpec(tables=tables), {"a": TaskSpec(), "b": TaskSpec()})
