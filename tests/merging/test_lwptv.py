from __future__ import annotations

import numpy as np
import pytest
from merging_toys import SHAPES

from plait.merging.lwptv import Lwptv
from plait.merging.pool import Pool
from plait.merging.ties import Ties
from plait.method import MethodError

SCORES = {"x": (0.1, 0.9), "y": (0.8, 0.2), "z": (0.3, 0.4)}
TIES = {"ties": {"keep": 0.5, "scale": 1.0}}


@pytest.mark.parametrize("method", [{"task_arithmetic": {"scale": 0.4}}, TIES])
def test_a_model_counts_as_the_base_at_the_layers_it_does_not_keep(
    pool: Pool, method: object
) -> None:
    found = Lwptv(method=method, scores=SCORES, keep=0.5).merge(pool).tensors  # type: ignore[arg-type]
    kept = {"x": "a.1", "y": "a.0", "z": "a.1"}
    models = {
        model: {
            name: value if name.startswith(kept[model]) else pool.base[name]
            for name, value in state.items()
        }
        for model, state in pool.models.items()
    }
    wanted = Lwptv(method=method).merge(Pool(models, pool.base)).tensors  # type: ignore[arg-type]
    for name in SHAPES:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-12)


def test_all_layers_kept_is_the_method_and_none_the_base(pool: Pool) -> None:
    plain = Ties(keep=0.5, scale=1.0).merge(pool).tensors
    for settings, wanted in (
        ({"scores": SCORES, "keep": 1.0}, plain),
        ({"scores": None, "keep": 0.0}, plain),
        ({"scores": SCORES, "keep": 0.0}, pool.base),
    ):
        found = Lwptv(method=TIES, **settings).merge(pool).tensors
        for name in SHAPES:
            np.testing.assert_array_equal(found[name], wanted[name])


def test_tensors_outside_the_layers_stay() -> None:
    base = {"embed": np.zeros(2), "h.0.w": np.zeros(2), "h.1.w": np.zeros(2)}
    pool = Pool({"a": {name: value + 1 for name, value in base.items()}}, base)
    one = {"task_arithmetic": {"scale": 1.0}}
    merged = Lwptv(method=one, scores={"a": (2.0, 1.0)}, keep=0.5).merge(pool).tensors
    assert {name: value.tolist() for name, value in merged.items()} == {
        "embed": [1, 1],
        "h.0.w": [1, 1],
        "h.1.w": [0, 0],
    }


def test_scores_of_other_models_and_layers_are_refused(pool: Pool) -> None:
    with pytest.raises(ValueError, match="scores and models differ in: y, z"):
        Lwptv(scores={"x": (1.0, 2.0)}).merge(pool)
    with pytest.raises(ValueError, match="the models have 2 layers, and 'z' has 1 scores"):
        Lwptv(scores={**SCORES, "z": (1.0,)}).merge(pool)
    with pytest.raises(ValueError, match="keep is a share from 0 to 1, not 2"):
        Lwptv(keep=2)
    with pytest.raises(MethodError, match="lwptv works on task vectors, and average merges"):
        Lwptv(method="average").merge(pool)
