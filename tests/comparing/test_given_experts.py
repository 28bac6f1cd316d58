"""Experts that were made elsewhere: a study of merges that trains nothing."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import plait
from plait.comparing import Progress, Study
from plait.comparing.apart import network_of
from plait.comparing.cells import make
from plait.comparing.given import GivenExperts
from plait.comparing.model import asked_of, load_model
from plait.data import SplitSpec
from plait.recipes import RecipeError, loads, write

ENCODER = {"trunk": {"mlp": {"width": 8, "depth": 1}}}
TARGETS = ["click", "price", "grade"]
TRAINING = {"passes": 2, "learning_rate": 0.01}


def table(scale: float = 1.0) -> pl.DataFrame:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(160, 4)) * scale
    z = x / scale @ np.random.default_rng(9).normal(size=(4, 3))
    grades = np.array(["low", "mid", "top"])[np.digitize(z[:, 2], [-1, 1])]
    columns = {f"x{i}": x[:, i] for i in range(4)}
    return pl.DataFrame(
        {**columns, "click": (z[:, 0] > 0).astype(int), "price": 10 * z[:, 1] + 50, "grade": grades}
    )


def compare(out: Path, **given):
    settings = {"targets": TARGETS, "encoder": ENCODER, "training": TRAINING, "seeds": 1}
    given = {**settings, "split": SplitSpec(), **given}
    declared = plait.compare(table(given.pop("scale", 1.0)), out=out, run=False, **given)
    ways = {label: declared.strategies[label] for label in ("separate", *given["strategies"])}
    study = Study(declared.plans, ways, folder=out, seeds=1, declared=declared.declared,
                  baselines=False)  # fmt: skip
    return study.run(progress=Progress())


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A start and the experts tuned from it, saved each in a folder of its own."""
    folder = tmp_path_factory.mktemp("experts")
    study = compare(folder / "run", strategies={"merged": {"merge": "average"}})
    merged = next(cell for place, cell in study.cells().items() if place.label == "merged")
    predictor = study.best("merged")
    for name, part in (("base", "start"), ("all", "experts")):
        predictor.model = load_model(study.store.path(merged.parts[part].key) / "model")
        predictor.save(folder / name)
    for task in TARGETS:
        predictor.model = load_model(folder / "all").of(task)
        predictor.save(folder / task)
    return folder


def spelled(folder: Path, **changes) -> dict:
    return {"base": str(folder / "base"),
            "models": {**{task: str(folder / task) for task in TARGETS}, **changes}}  # fmt: skip


@pytest.fixture(scope="module")
def study(made, tmp_path_factory) -> Study:
    return compare(
        tmp_path_factory.mktemp("merges") / "run", experts=spelled(made),
        strategies={"average": {"merge": "average"}, "summed": {"merge": "task_arithmetic"}},
    )  # fmt: skip


def test_separate_is_the_given_experts_and_merges_stand_on_them(made, study):
    assert study.failures() == []
    kinds = {cell.strategy.card.name for cell in study.wanted()}
    assert not kinds & {"separate", "joint"}
    places = {place.label: cell for place, cell in study.cells().items()}
    assert places["average"].parts["experts"].key == places["separate"].key
    rows, best = table(), study.best("separate")
    for task in TARGETS:
        alone = plait.load(made / task).predict(rows)
        for column in alone.columns:
            if column in best.predict(rows).columns and alone[column].dtype == pl.Float64:
                np.testing.assert_allclose(
                    best.predict(rows)[column], alone[column], rtol=1e-5, atol=1e-6
                )


def test_merges_are_of_the_given_weights_and_equal_those_of_trained_experts(made, study):
    trained = Study.open(made / "run").best("merged").model.network
    mine = study.best("average").model.network
    for (name, one), other in zip(
        trained.state_dict().items(), mine.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, msg=name)


def test_a_coefficient_is_chosen_on_validation_and_no_training_is_counted(study):
    assert study.best("summed").model.evidence["scale"] is not None
    assert not list(study.folder.glob("cells/*/events.jsonl")) or all(
        not path.read_bytes() for path in study.folder.glob("cells/*/events.jsonl")
    )
    assert {row.strategy for row in study.results.standings} >= {"separate", "average", "summed"}


def test_a_study_is_opened_and_told_without_the_folders(made, study):
    hidden = made.rename(made.with_name("gone"))
    try:
        again = Study.open(study.folder)
        keys = [cell.key for cell in again.wanted()]
        assert keys == [cell.key for cell in study.wanted()]
        assert again.best("average").predict(table()).height == 160
    finally:
        hidden.rename(made)


def test_contents_of_the_folders_are_part_of_the_key(study, tmp_path):
    plan, strategy = study.plans[0], study.strategies["average"]
    changed = replace(plan.experts, hashes={**plan.experts.hashes, "click": "0"})
    other = replace(plan, experts=changed)
    assert make(other, strategy, 0).key != make(plan, strategy, 0).key
    with pytest.raises(ValueError, match=r"click: the files have changed since"):
        study.strategies["separate"].run(other, {}, 0, tmp_path)


def test_heads_of_real_targets_are_put_into_the_units_of_the_study(made, study, tmp_path):
    """Other training rows have another centre and scale; what is predicted stays."""
    plan, task = study.plans[0], study.plans[0].tasks["price"]
    moved = plan.tasks.replace("price", center=task.center + 7, scale=task.scale * 3)
    dataset = copy.copy(plan.dataset)
    dataset.tasks = moved
    plan = replace(plan, tasks=moved, source=lambda: dataset)
    model = study.strategies["separate"].run(plan, {}, 0, tmp_path)
    batch = plan.dataset.batch(plan.dataset.rows("test", "price")).only({"price"})
    mine = network_of(model, "price").predict(batch.parts, asked_of(batch))
    theirs = plait.load(made / "price").model.predict(batch.parts, asked_of(batch))
    torch.testing.assert_close(mine["real"], theirs["real"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"experts": {"models": {"click": "click"}}},
         r"for the task 'price'; give its folder(.|\n)*the task 'grade'(.|\n)*from\? give base"),
        ({"models": {"clicks": "click"}}, r"no task 'clicks'; did you mean 'click'\?"),
        ({"models": {"price": "click"}}, r"price: its head does not fit: kind binary in it, real"),
        ({"models": {"price": "all"}, "base": "base", "encoder": {"trunk": {"mlp": {"width": 9}}}},
         r"base: .*base: it has another encoder: .* is \[8.* in it and \[9"),
        ({"base": "strange"}, r"click: it shares little with the base: they differ by \d+% of"),
        ({"scale": 3.0}, r"it reads 'numeric' otherwise than the study"),
        ({"strategies": {"m": {"merge": {"average": {}, "start": "warm_up"}}}},
         r"the experts of this study begin at their base"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_words_before_anything_is_computed(
    made, tmp_path, changes, said
):
    if not (made / "strange").exists():
        strange = plait.load(made / "base")
        with torch.no_grad():
            for value in strange.model.network.trunk.parameters():
                value.mul_(-1)
        strange.save(made / "strange")
    experts = spelled(made, **{k: str(made / v) for k, v in changes.pop("models", {}).items()})
    if "base" in changes:
        experts["base"] = str(made / changes.pop("base"))
    given = {"experts": experts, "strategies": {"m": {"merge": "average"}}, "base": made, **changes}
    with pytest.raises(ValueError, match=said):
        compare(tmp_path / "run", **given)
    assert not list((tmp_path / "run").glob("cells/*"))


def test_folders_that_are_not_there_are_named_with_every_other_mistake(tmp_path):
    with pytest.raises(ValueError, match=r"no 'bass'; did you mean 'base'\?\n.*a: .*x is no f"):
        GivenExperts.of({"bass": "b", "models": {"a": "x"}}, tmp_path)


def test_a_study_file_names_folders_from_its_own_place(tmp_path):
    head = "data: a.csv\ntasks: [a]\n"
    text = f"{head}experts: {{base: b, models: {{a: m/a}}}}\n"
    spec = loads(text)
    assert loads(write(spec)) == spec
    found = spec.located(tmp_path).experts
    assert found == {"base": str(tmp_path / "b"), "models": {"a": str(tmp_path / "m/a")}}
    assert json.dumps(found)
    for wrong, said in (("{bas: x, models: {a: b}}", "did you mean 'base'"),
                        ("{base: x}", "experts need models"),
                        ("{models: {}}", "give a folder for each task")):  # fmt: skip
        with pytest.raises(RecipeError, match=said):
            loads(f"{head}experts: {wrong}\n")
