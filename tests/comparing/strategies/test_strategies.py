"""Every strategy on a small plan: what it makes, and what it promises."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from studies import dataset, plan, school_dataset

from plait.comparing.apart import Apart, network_of
from plait.comparing.evaluate import mean_loss, predict_split
from plait.comparing.model import BundleModel, Model, NetworkModel, load_model
from plait.comparing.plan import Plan
from plait.comparing.strategy import Strategy
from plait.data import Dataset
from plait.merging.base import Have
from plait.merging.task_arithmetic import TaskArithmetic
from plait.method import MethodError, describe, resolve, spell
from plait.networks.side_by_side import SideBySide

SPELLED = [
    "separate",
    "joint",
    {"joint": {"sharing": {"mmoe": {"experts": 2}}, "balancing": "uncertainty"}},
    {"joint": {"procedure": "task_sam"}},
    {"merge": {"task_arithmetic": {}}},
    {"merge": "average"},
    {"adapt": {"lora": {"rank": 2}}},
    "prior",
    "linear",
    "forest",
    "boosting",
]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset()


def build(plan: Plan, spelled: object, folder: Path, seed: int = 0) -> Model:
    """The model of a strategy, its parts first."""
    strategy: Strategy = resolve("strategy", spelled)
    parts = {
        name: build(plan, part, folder / name, seed)
        for name, part in strategy.requires(plan).items()
    }
    return strategy.run(plan, parts, seed, folder / "own")


def values(model: Model, data: Dataset) -> Mapping[str, np.ndarray]:
    return {name: one.prediction for name, one in predict_split(model, data, "test").items()}


@pytest.mark.parametrize("spelled", SPELLED, ids=str)
def test_it_predicts_every_task_better_than_nothing_and_is_saved(
    spelled: object, data: Dataset, tmp_path: Path
) -> None:
    model = build(plan(data, passes=6), spelled, tmp_path)
    prior = build(plan(data), "prior", tmp_path / "prior")
    found = predict_split(model, data, "valid")
    assert found.keys() == set(data.tasks.names)
    loss = mean_loss(data.tasks, found)
    assert loss <= mean_loss(data.tasks, predict_split(prior, data, "valid")) * 1.05
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.evidence == model.evidence
    assert loaded.cost() == model.cost()
    for name, one in values(model, data).items():
        np.testing.assert_array_equal(values(loaded, data)[name], one)


@pytest.mark.parametrize("spelled", [*SPELLED, {"forest": {"pooled": True}}], ids=str)
def test_it_can_be_written_down_and_says_what_it_is(spelled: object) -> None:
    strategy = resolve("strategy", spelled)
    told = spell(strategy)
    assert spell(resolve("strategy", told)) == told
    assert len(strategy.words()) > 10


def test_the_method_inside_is_spelled_without_its_settings_name() -> None:
    assert spell(resolve("strategy", {"merge": {"average": {}}})) == {"merge": {"average": {}}}
    assert spell(resolve("strategy", {"merge": "average"})) == {"merge": {"average": {}}}
    assert spell(resolve("strategy", {"merge": {"task_arithmetic": {}}})) == "merge"
    scaled = {"merge": {"task_arithmetic": {"scale": 0.5}, "start": "warm_up"}}
    found = resolve("strategy", scaled)
    assert found.method == TaskArithmetic(scale=0.5)
    assert spell(found) == {"merge": {"start": "warm_up", "task_arithmetic": {"scale": 0.5}}}
    with pytest.raises(MethodError, match="no merging method 'tiess'") as error:
        resolve("strategy", {"merge": {"tiess": {}}})
    assert error.value.where == ("merge",)
    with pytest.raises(MethodError, match="no setting 'stat'; did you mean 'start'"):
        resolve("strategy", {"merge": {"stat": "warm_up"}})
    with pytest.raises(MethodError, match="no setting 'scal'") as error:
        resolve("strategy", {"merge": {"task_arithmetic": {"scal": 1}}})
    assert error.value.where == ("merge", "task_arithmetic", "scal")
    row = describe(type(found))
    assert row["settings"]["method"]["inline"] is True


def test_a_tasks_own_network_does_not_depend_on_the_other_tasks(tmp_path: Path) -> None:
    """The same network whether six tasks are run side by side, or three one after another."""
    many, few = school_dataset(6), school_dataset(3)
    assert few.tasks.names == many.tasks.names[:3]
    side_by_side = Apart(plan=plan(many), seed=0)
    one_by_one = Apart(plan=plan(few), seed=0)
    assert any(len(names) > 1 for names, _ in side_by_side.buckets())
    assert all(len(names) == 1 for names, _ in one_by_one.buckets())
    for name in few.tasks.names:
        names = next(names for names, _ in side_by_side.buckets() if name in names)
        stacked = side_by_side.network(names)
        assert isinstance(stacked, SideBySide)
        mine = dict(one_by_one.network([name]).named_parameters())
        for path, parameter in stacked.alone(name).named_parameters():
            if not path.endswith("bias"):  # heads start at base rates, which differ in units
                torch.testing.assert_close(parameter, mine[path])


def test_side_by_side_training_equals_training_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = school_dataset(6)
    together = Apart(plan=plan(data, passes=3), seed=0).run(tmp_path / "a")
    monkeypatch.setattr("plait.comparing.apart.FEW", 99)
    in_turn = Apart(plan=plan(data, passes=3), seed=0).run(tmp_path / "b")
    assert len(together.members) < len(in_turn.members) == 6
    for name, one in values(together, data).items():
        np.testing.assert_allclose(values(in_turn, data)[name], one, rtol=1e-4)


def test_what_a_killed_run_had_trained_is_read_back(data: Dataset, tmp_path: Path) -> None:
    apart = Apart(plan=plan(data), seed=0)
    whole = apart.run(tmp_path / "whole")
    calls = []
    member = Apart._member

    class KilledError(Exception):
        pass

    def until_two(self, folder, number, names, steps):
        if len(calls) == 2:
            raise KilledError
        calls.append(names)
        return member(self, folder, number, names, steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Apart, "_member", until_two)
        with pytest.raises(KilledError):
            apart.run(tmp_path / "again")
    first = (tmp_path / "again" / "done" / "0" / "model.json").stat().st_mtime_ns
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        patch.setattr(Apart, "_member", lambda *a: seen.append(a[1]) or member(*a))
        resumed = apart.run(tmp_path / "again")
    assert first
    for name, one in values(whole, data).items():
        np.testing.assert_array_equal(values(resumed, data)[name], one)


def test_a_merge_keeps_heads_and_merges_trunks(data: Dataset, tmp_path: Path) -> None:
    given = plan(data)
    merge = resolve("strategy", {"merge": {"task_arithmetic": {"scale": 1.0}}})
    parts = {
        name: build(given, part, tmp_path / name) for name, part in merge.requires(given).items()
    }
    before = {k: v.clone() for k, v in network_of(parts["start"], "click").state_dict().items()}
    experts = {name: network_of(parts["experts"], name) for name in data.tasks.names}
    model = merge.run(
        given, {k: load(v, tmp_path / f"{k}-copy") for k, v in parts.items()}, 0, tmp_path
    )
    assert isinstance(model, NetworkModel)
    for name, parameter in model.network.trunk.named_parameters():
        base = before[f"trunk.{name}"]
        deltas = [dict(e.trunk.named_parameters())[name] - base for e in experts.values()]
        torch.testing.assert_close(parameter, base + sum(deltas))
    alone = resolve("strategy", {"merge": {"task_arithmetic": {"scale": 0.0}}})
    zero = alone.run(
        given, {k: load(v, tmp_path / f"{k}-again") for k, v in parts.items()}, 0, tmp_path
    )
    for name, parameter in zero.network.trunk.named_parameters():
        torch.testing.assert_close(parameter, before[f"trunk.{name}"])


def load(model: Model, folder: Path) -> Model:
    model.save(folder)
    return load_model(folder)


def test_the_scale_of_a_merge_is_chosen_on_validation_and_can_be_settled(
    data: Dataset, tmp_path: Path
) -> None:
    given = plan(data, passes=4)
    model = build(given, "merge", tmp_path)
    losses = dict(model.evidence["search"])
    assert model.evidence["scale"] == min(losses, key=losses.get)
    assert mean_loss(data.tasks, predict_split(model, data, "valid")) == pytest.approx(
        min(losses.values()), rel=1e-4
    )
    settled = resolve("strategy", "merge").settled(model.evidence)
    assert settled.method.scale == model.evidence["scale"]
    assert Have().validation is None


def test_adapters_leave_the_start_as_it_was(data: Dataset, tmp_path: Path) -> None:
    given = plan(data)
    adapt = resolve("strategy", {"adapt": {"lora": {"rank": 2}}})
    start = build(given, adapt.requires(given)["start"], tmp_path)
    before = {k: v.clone() for k, v in network_of(start, "click").trunk.state_dict().items()}
    model = adapt.run(given, {"start": start}, 0, tmp_path / "adapted")
    frozen = {n: p for n, p in model.network.trunk.named_parameters() if not p.requires_grad}
    kept = sorted(float(p.double().sum()) for p in frozen.values())
    assert kept == sorted(float(value.double().sum()) for value in before.values())
    assert any(p.requires_grad for p in model.network.parameters())


def test_linear_strength_is_chosen_on_validation(data: Dataset, tmp_path: Path) -> None:
    linear = resolve("strategy", "linear")
    model = linear.run(plan(data), {}, 0, tmp_path)
    assert model.evidence["chosen"] == "on validation"
    fixed = linear.settled(model.evidence)
    assert fixed.strength == model.evidence["strength"]
    again = fixed.run(plan(data), {}, 0, tmp_path)
    for name, one in values(model, data).items():
        np.testing.assert_array_equal(values(again, data)[name], one)


def test_pooled_baselines_share_one_estimator(tmp_path: Path) -> None:
    data = school_dataset()
    losses = {}
    for name in ("linear", "forest", "boosting"):
        own = build(plan(data), name, tmp_path)
        pooled = build(plan(data), {name: {"pooled": True}}, tmp_path)
        assert len(pooled.pools) == 1 < len(own.pools)
        losses[name] = mean_loss(data.tasks, predict_split(pooled, data, "valid"))
    # The schools differ by a shift only: one slope with the school's number is the truth.
    assert losses["linear"] < 0.3
    assert max(losses.values()) < 3


def test_bundles_route_records_to_their_members(data: Dataset, tmp_path: Path) -> None:
    separate = build(plan(data), "separate", tmp_path)
    assert isinstance(separate, BundleModel)
    for name in data.tasks.names:
        alone = separate.of(name)
        rows = data.rows("test", name)
        batch = data.batch(rows, [name])
        group = data.tasks[name].group
        asked = {group: batch.labels[group]}
        whole = separate.predict(batch.parts, asked)[group]
        mine = data.batch(rows, [name])
        own = alone.predict(mine.parts, {group: only(mine.labels[group])})[group]
        torch.testing.assert_close(whole, own)
    with pytest.raises(ValueError, match="exactly one of its members"):
        BundleModel(data.tasks, separate.members[:2])


def only(labels):
    from plait.batch import Records

    return Records(torch.zeros_like(labels.task), labels.rows)


def test_freezing_needs_something_pretrained(data: Dataset) -> None:
    with pytest.raises(ValueError, match="freeze is about a pretrained encoder"):
        resolve("strategy", {"joint": {"freeze": True}}).check(plan(data))
    with pytest.raises(ValueError, match="no start 'warmup'; did you mean 'warm_up'"):
        resolve("strategy", {"merge": {"start": "warmup"}}).check(plan(data))
