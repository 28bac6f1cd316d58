from __future__ import annotations

import numpy as np
import pytest

from plait.merging.base import Have
from plait.merging.pool import Pool
from plait.merging.task_arithmetic import TaskArithmetic

BASE = {"w": np.array([[1.0, 2.0]]), "count": np.array([7])}
MODELS = {
    "a": {"w": np.array([[2.0, 2.0]]), "count": np.array([8])},
    "b": {"w": np.array([[1.0, 5.0]]), "count": np.array([9])},
}


def test_scale_zero_gives_the_base_and_one_expert_at_one_gives_the_expert() -> None:
    zero = TaskArithmetic(scale=0.0).merge(Pool(MODELS, BASE)).tensors
    np.testing.assert_array_equal(zero["w"], BASE["w"])
    one = TaskArithmetic(scale=1.0).merge(Pool({"a": MODELS["a"]}, BASE)).tensors
    np.testing.assert_array_equal(one["w"], MODELS["a"]["w"])


def test_the_sum_not_the_mean_is_scaled() -> None:
    merged = TaskArithmetic(scale=0.5).merge(Pool(MODELS, BASE)).tensors
    np.testing.assert_allclose(merged["w"], [[1.5, 3.5]])
    assert merged["count"].tolist() == [7]


def test_a_base_is_needed() -> None:
    with pytest.raises(ValueError, match="task_arithmetic needs the common base checkpoint"):
        TaskArithmetic().merge(Pool(MODELS))


def test_the_scale_is_chosen_on_validation() -> None:
    def loss(state: dict[str, np.ndarray]) -> float:
        return float(np.abs(state["w"] - [[1.4, 3.2]]).sum())  # λ = 0.4

    merged = TaskArithmetic().merge(Pool(MODELS, BASE), Have(validation=loss))
    assert merged.evidence["scale"] == 0.4
    assert [factor for factor, _ in merged.evidence["search"]] == list(TaskArithmetic().grid)
    np.testing.assert_allclose(merged.tensors["w"], [[1.4, 3.2]])


def test_an_undefined_validation_loss_is_never_chosen() -> None:
    def loss(state: dict[str, np.ndarray]) -> float:
        factor = state["w"][0, 0] - 1
        return float("nan") if factor < 0.85 else factor

    merged = TaskArithmetic().merge(Pool(MODELS, BASE), Have(validation=loss))
    assert merged.evidence["scale"] == 0.9
    with pytest.raises(ValueError, match="finite validation loss"):
        TaskArithmetic().merge(Pool(MODELS, BASE), Have(validation=lambda _: float("nan")))


def test_without_validation_the_default_is_used_and_said() -> None:
    merged = TaskArithmetic().merge(Pool(MODELS, BASE))
    assert merged.evidence == {"scale": 0.3, "chosen": "the default, without validation"}
    np.testing.assert_allclose(merged.tensors["w"], [[1.3, 2.9]])


def test_inputs_are_not_changed() -> None:
    before = {name: value.copy() for name, value in BASE.items()}
    merged = TaskArithmetic(scale=1.0).merge(Pool(MODELS, BASE)).tensors
    merged["count"][0] = 0
    for name, value in before.items():
        np.testing.assert_array_equal(BASE[name], value)
