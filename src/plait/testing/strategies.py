"""What a strategy promises: words, parts without circles, and one model that keeps its word.

Each strategy is run on a small table a few times; the runs are shared by the properties.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from plait.batch import Batch
from plait.comparing.cells import Cell, make, ordered
from plait.comparing.model import Model, asked_of, load_model
from plait.comparing.plan import Plan
from plait.comparing.strategy import Strategy
from plait.data import Dataset, DataSpec, TableSpec, TaskSpec, load
from plait.method import resolve, spell
from plait.settings import Training
from plait.testing.common import variations
from plait.testing.laws import Subject, Suite
from plait.testing.toys import toy_frame

suite = Suite()

ROWS = 120
TASKS = {
    "ripe": TaskSpec(kind="binary"),
    "price": TaskSpec(kind="real"),
    "grade": TaskSpec(kind="classes"),
    "stars": TaskSpec(kind="ordinal"),
    "sold": TaskSpec(kind="counts"),
}
_PARTS = ("train", "train", "train", "valid", "test")


def toy_table(*, other_tests: bool = False) -> pl.DataFrame:
    """The table of the toy study; with other labels and inputs in its test rows where asked."""
    table = toy_frame(ROWS).with_columns(
        pl.Series("split", [_PARTS[i % len(_PARTS)] for i in range(ROWS)])
    )
    if not other_tests:
        return table
    test = pl.col("split") == "test"
    return table.with_columns(
        pl.when(test).then(1 - pl.col("ripe")).otherwise(pl.col("ripe")).alias("ripe"),
        pl.when(test).then(5 - pl.col("stars")).otherwise(pl.col("stars")).alias("stars"),
        pl.when(test).then(pl.col("price") * -7).otherwise(pl.col("price")).alias("price"),
        pl.when(test).then(pl.col("x1") * 100 + 3).otherwise(pl.col("x1")).alias("x1"),
    )


@lru_cache(maxsize=2)
def toy_plan(*, other_tests: bool = False) -> Plan:
    """A plan on the toy table: a small network and two passes."""
    table = toy_table(other_tests=other_tests)
    dataset = load(DataSpec(tables={"toy": TableSpec(source=table)}, id="id"), TASKS)
    training = Training(passes=2, batch=32, device="cpu")
    encoder = {"text": {"bag": {"width": 8}}, "trunk": {"mlp": {"width": 8, "depth": 1}}}
    return Plan.of(dataset, encoder=encoder, training=training)


@lru_cache(maxsize=64)
def _model(told: str, seed: int, *, other_tests: bool = False) -> Model:
    """The model of a strategy, given as JSON, on the toy plan; its parts are made first."""
    plan = toy_plan(other_tests=other_tests)
    wanted = make(plan, resolve("strategy", json.loads(told)), seed)
    done: dict[str, Model] = {}
    with _one_thread():
        for cell in ordered([wanted]):
            parts = {name: done[part.key] for name, part in cell.parts.items()}
            with tempfile.TemporaryDirectory() as folder:
                done[cell.key] = cell.strategy.run(cell.plan, parts, cell.seed, Path(folder))
    return done[wanted.key]


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def model_of(subject: Subject, seed: int = 0, *, other_tests: bool = False) -> Model:
    """The subject's model; made once."""
    return _model(json.dumps(spell(subject.make())), seed, other_tests=other_tests)


def batch_of(dataset: Dataset, split: str = "test") -> Batch:
    """All labelled rows of a split."""
    rows = dataset.rows(split)  # type: ignore[arg-type]
    return dataset.batch(rows)


def predictions(model: Model, batch: Batch) -> dict[str, Tensor]:
    """What the model predicts for the records of a batch, by head group."""
    return model.predict(batch.parts, asked_of(batch))


def _same(one: dict[str, Tensor], two: dict[str, Tensor], tolerance: float, why: str) -> None:
    assert one.keys() == two.keys(), f"{why}: {sorted(one)} against {sorted(two)}"
    for group, value in one.items():
        gap = float((value.double() - two[group].double()).abs().max())
        size = max(1.0, float(value.double().abs().max()))
        assert gap <= tolerance * size, f"{why}: {group} differs by {gap:.3g}"


def _cell(subject: Subject, seed: int = 0, **settings: object) -> Cell:
    return make(toy_plan(), subject.make(**settings), seed)


@suite.law(
    "it says what it is in a few words of one line, and other settings in other words or not"
)
def words_are_for_people(subject: Subject) -> None:
    for given in variations(subject):
        words = subject.make(**given).words()
        assert 2 <= len(words.split()) <= 20, f"{words!r}"
        assert "\n" not in words, f"{words!r} has more than one line"
        assert not words.endswith("."), f"{words!r} ends with a full stop"


@suite.law("the strategies it requires can be written down, and lead in no circle")
def parts_lead_in_no_circle(subject: Subject) -> None:
    plan = toy_plan()

    def walk(strategy: Strategy, above: tuple[str, ...]) -> None:
        told = json.dumps(spell(strategy), sort_keys=True)
        assert told not in above, f"a circle: {' → '.join((*above, told))}"
        for name, part in strategy.requires(plan).items():
            assert isinstance(part, Strategy), f"part {name!r} is {type(part).__name__}"
            assert resolve("strategy", spell(part)) == part, f"part {name!r} does not read back"
            walk(part, (*above, told))

    walk(subject.make(), ())


@suite.law("a cell is named by what it depends on, and by nothing else")
def cells_are_keyed(subject: Subject) -> None:
    one = _cell(subject)
    assert one.key == _cell(subject).key, "the same cell has two keys"
    json.dumps(one.describe(), allow_nan=False)
    keys: dict[str, object] = {}
    for given in variations(subject):
        key = _cell(subject, **given).key
        assert key not in keys, f"{given} and {keys.get(key)} have one key"
        keys[key] = given
    depends = subject.cls.seeded or bool(one.parts)
    assert (_cell(subject, seed=1).key != one.key) == depends, "the seed and the key disagree"


@suite.law("it can be checked, and its time estimated, before anything is trained")
def estimate_is_a_time(subject: Subject) -> None:
    strategy = subject.make()
    strategy.check(toy_plan())
    seconds = strategy.seconds(toy_plan())
    assert 0 <= seconds < 600, f"an estimate of {seconds} s on a toy"


@suite.law("its model has the plan's tasks and predicts every record in its own form")
def predictions_have_their_form(subject: Subject) -> None:
    dataset = toy_plan().dataset
    model, batch = model_of(subject), batch_of(dataset)
    assert model.tasks.names == dataset.tasks.names, f"tasks {model.tasks.names}"
    found = predictions(model, batch)
    for group, labels in batch.labels.items():
        values, kind = found[group], dataset.tasks.groups[group].kind
        assert len(values) == len(labels), f"{group}: {len(values)} for {len(labels)} records"
        assert values.isfinite().all(), f"{group}: {values}"
        if kind in ("classes", "ordinal"):
            total = values.double().sum(1)
            assert torch.allclose(total, torch.ones_like(total), atol=1e-4), f"{group}: {total}"
        if kind == "binary":
            assert ((values >= 0) & (values <= 1)).all(), f"{group}: {values}"
        if kind == "counts":
            assert (values >= 0).all(), f"{group}: {values}"


@suite.law("real targets come back in the user's units")
def units_are_the_users(subject: Subject) -> None:
    dataset = toy_plan().dataset
    found = predictions(model_of(subject), batch_of(dataset))["real"]
    _, truth, _ = dataset.truth("price", "train")
    middle, spread = float(truth.mean()), float(truth.std())
    off = abs(float(found.double().mean()) - middle)
    assert off < 2 * spread, (
        f"a mean of {float(found.mean()):.3g}; labels {middle:.3g} ± {spread:.3g}"
    )


@suite.law("any subset of tasks can be asked for, and gives the same")
def any_subset_can_be_asked(subject: Subject) -> None:
    model, batch = model_of(subject), batch_of(toy_plan().dataset)
    whole = predictions(model, batch)
    for names in ({"price"}, {"ripe", "stars"}):
        part = predictions(model, batch.only(names))
        _same(part, {group: whole[group] for group in part}, 1e-5, f"asked for {sorted(names)}")


@suite.law("rows are predicted the same alone and together")
def rows_are_separable(subject: Subject) -> None:
    model, batch = model_of(subject), batch_of(toy_plan().dataset)
    whole = predictions(model, batch)
    pieces = [predictions(model, piece) for piece in batch.split(4)]
    for group, values in whole.items():
        total = sum(len(piece[group]) for piece in pieces if group in piece)
        assert total == len(values), f"{group}: {total} of {len(values)} records"
    rows = torch.tensor([3])
    alone = predictions(model, batch.rows(rows))
    for group, values in alone.items():
        mine = whole[group][batch.labels[group].rows == 3]
        _same({group: mine}, {group: values}, 1e-5, "a row alone")


@suite.law("a saved model is the same model, and its folder can be read without pickle")
def model_round_trips(subject: Subject) -> None:
    model, batch = model_of(subject), batch_of(toy_plan().dataset)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        model.save(path)
        suffixes = {file.suffix for file in path.rglob("*") if file.is_file()}
        again = load_model(path)
        moved = Path(folder) / "elsewhere"
        path.rename(moved)
        load_model(moved)
    assert not suffixes & {".pkl", ".pt", ".pth", ".joblib", ".bin"}, f"files {suffixes}"
    assert again.tasks == model.tasks, f"tasks {again.tasks}"
    _same(predictions(model, batch), predictions(again, batch), 1e-6, "after saving and loading")


@suite.law("the same seed gives the same model; another seed another one, where seeds matter")
def seeds_are_honest(subject: Subject) -> None:
    batch = batch_of(toy_plan().dataset)
    one = predictions(model_of(subject), batch)
    _model.cache_clear()
    _same(one, predictions(model_of(subject), batch), 0.0, "run twice")
    other = predictions(model_of(subject, seed=1), batch)
    changed = any(not torch.equal(values, other[group]) for group, values in one.items())
    assert changed == subject.cls.seeded, f"seeded is {subject.cls.seeded}; changed: {changed}"


@suite.law("nothing is learnt or chosen on test rows")
def test_rows_are_never_looked_at(subject: Subject) -> None:
    batch = batch_of(toy_plan().dataset, "train")
    one = predictions(model_of(subject), batch)
    two = predictions(model_of(subject, other_tests=True), batch)
    _same(one, two, 0.0, "with other inputs and labels in the test rows")


@suite.law("cost and evidence are plain numbers")
def cost_and_evidence_are_plain(subject: Subject) -> None:
    model = model_of(subject)
    json.dumps(dict(model.evidence), allow_nan=False)
    cost = model.cost()
    for name in ("parameters", "active"):
        value = getattr(cost, name)
        assert value is None or value >= 0, f"{name} is {value}"
    settled = subject.make().settled(model.evidence)
    assert isinstance(settled, subject.cls), f"settled to {type(settled).__name__}"
    assert resolve("strategy", spell(settled)).words() == settled.words()


@suite.law("what was found settles the strategy: its free values are then given")
def settling_is_final(subject: Subject) -> None:
    found = model_of(subject).evidence
    settled = subject.make().settled(found)
    assert settled.settled(found) == settled, "settling twice changes it again"


def golden(subject: Subject) -> dict[str, list[float]]:
    """The first predictions of a plain baseline; of others the parts only: training drifts."""
    if not subject.cls.baseline:
        cell = _cell(subject)
        return {
            "parts": [float(len(cell.parts))],
            "ancestors": [float(len(list(cell.ancestors())))],
        }
    found = predictions(model_of(subject), batch_of(toy_plan().dataset))
    return {group: values.flatten()[:6].tolist() for group, values in found.items()}
