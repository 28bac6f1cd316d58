from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plait.merging.average import Average
from plait.merging.jobs import ABOUT, Job
from plait.merging.kinship import SAMPLE, kinship
from plait.merging.pool import Pool, PoolError
from plait.merging.task_arithmetic import TaskArithmetic
from plait.weights.files import read_json
from plait.weights.states import write_state

SHAPES = {"a": (60, 50), "b": (50,)}


def state(seed: int, scale: float = 1.0, base: dict | None = None) -> dict:
    draw = np.random.default_rng(seed)
    own = {name: scale * draw.normal(size=shape) for name, shape in SHAPES.items()}
    return own if base is None else {name: base[name] + own[name] for name in own}


def test_distances_and_cosines_are_those_of_the_whole_task_vectors() -> None:
    base = state(0)
    models = {"x": state(1, 0.1, base), "y": state(2, 0.02, base)}
    found = kinship(Pool(models, base))
    flat = {n: np.concatenate([m[k].ravel() - base[k].ravel() for k in SHAPES])
            for n, m in models.items()}  # fmt: skip
    size = np.sqrt(sum((value**2).sum() for value in base.values()))
    for name, delta in flat.items():
        assert found.distances[name] == pytest.approx(np.linalg.norm(delta) / size)
    wanted = flat["x"] @ flat["y"] / np.linalg.norm(flat["x"]) / np.linalg.norm(flat["y"])
    assert found.cosines == {("x", "y"): pytest.approx(wanted)}
    assert list(found.doubts()) == []


def test_a_model_of_another_origin_is_doubted() -> None:
    base = state(0)
    near = state(1, 0.1, base)
    (doubt,) = kinship(Pool({"near": near, "alien": state(7)}, base)).doubts()
    assert "zipit or pleas, which match their units" in doubt
    assert doubt.startswith("'alien' shares little with the base: they differ by 14")
    (doubt,) = kinship(Pool({"near": near, "alien": state(7)})).doubts()
    assert doubt.startswith("'alien' shares little with 'near'")


def test_models_of_another_base_are_doubted() -> None:
    given = state(0)
    true = state(5, 0.3, given)  # tuned from the given one, then the models from it
    models = {name: state(seed, 0.1, true) for seed, name in enumerate("xyz", 10)}
    (doubt,) = kinship(Pool(models, given)).doubts()
    assert "they seem to come from another base" in doubt
    assert not list(kinship(Pool(models, true)).doubts())


def test_a_model_that_is_the_base_is_said() -> None:
    base = state(0)
    found = kinship(Pool({"x": base, "y": state(1, 0.1, base)}, base))
    assert found.cosines == {("x", "y"): 0}
    assert list(found.doubts()) == ["'x' is the same as the base wherever it was looked at"]


def test_large_tensors_are_sampled_and_odd_values_do_no_harm() -> None:
    base = {"w": np.ones(3 * SAMPLE), "v": np.array([np.nan, 1.0]), "none": np.empty(0)}
    model = {"w": np.full(3 * SAMPLE, 1.5), "v": np.ones(2), "none": np.empty(0)}
    found = kinship(Pool({"x": model}, base, allow_nonfinite=True))
    assert found.distances == {"x": pytest.approx(0.5)}


def normed(folder: Path, seed: int) -> Path:
    folder.mkdir()
    draw = np.random.default_rng(seed)
    tensors = {"bn.running_mean": draw.normal(size=4), "bn.running_var": draw.uniform(size=4)}
    write_state(folder / "model.safetensors", tensors)
    return folder


def test_running_statistics_are_said_and_a_variance_stays_one(tmp_path: Path) -> None:
    base, *models = (normed(tmp_path / name, seed) for seed, name in enumerate("bxy"))
    named = dict(zip("xy", models, strict=True))
    Job(models=named, base=base, method=Average()).run(tmp_path / "out")
    told = read_json(tmp_path / "out" / ABOUT)["kinship"]
    assert "'bn.running_mean' and 1 more are running statistics" in told["doubts"][-1]
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "Cosines of the task vectors: x and y: " in card
    assert "measure them again on data" in card
    with pytest.raises(PoolError, match=r"negative values in 'bn\.running_var', which is a var"):
        Job(models=named, base=base, method=TaskArithmetic(scale=9.0)).run(tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
