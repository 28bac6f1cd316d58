from __future__ import annotations

import numpy as np
import pytest
from merging_toys import SHAPES

from plait.merging.by_tensor import ByTensor
from plait.merging.pool import Pool
from plait.merging.task_arithmetic import TaskArithmetic
from plait.merging.ties import Ties


def test_every_tensor_is_merged_by_its_own_rule(pool: Pool) -> None:
    rules = {"*.weight": {"ties": {"keep": 0.4}}, "a.0.*": {"task_arithmetic": {"scale": 0.1}}}
    merged = ByTensor(rules=rules, method={"task_arithmetic": {"scale": 1.0}}).merge(pool).tensors
    weights = tuple(site for site in pool.sites if site.name.endswith(".weight"))
    trimmed = Ties(keep=0.4).merge(pool.only(weights)).tensors  # the threshold is the group's
    small, whole = (TaskArithmetic(scale=s).merge(pool).tensors for s in (0.1, 1.0))
    for name, wanted in {
        "a.0.weight": trimmed, "a.1.weight": trimmed, "a.0.bias": small, "a.1.scale": whole,
    }.items():  # fmt: skip
        np.testing.assert_array_equal(merged[name], wanted[name])
    assert list(merged) == [*SHAPES, "steps"]


def test_settings_run_with_the_depth() -> None:
    names = [f"layers.{depth}.w" for depth in range(5)]
    state = {name: np.ones(1) for name in ("embed", *names)}
    pool = Pool({"a": state}, {name: np.zeros(1) for name in state})
    scale = {"depths": [0.0, 1.0, 0.0]}
    merged = ByTensor(rules={"*": {"task_arithmetic": {"scale": scale}}}).merge(pool).tensors
    assert [float(merged[name][0]) for name in names] == [0, 0.5, 1, 0.5, 0]
    assert merged["embed"][0] == 0


def test_mistakes_are_named(pool: Pool) -> None:
    with pytest.raises(ValueError, match=r"the rule 'x\*': no merging method 'tie'"):
        ByTensor(rules={"x*": "tie"})
    with pytest.raises(ValueError, match="no tensor has a name that fits 'mlp'"):
        ByTensor(rules={"mlp": "ties"}).merge(pool)
    with pytest.raises(ValueError, match="keep nothing by task"):
        ByTensor(method="emr").merge(pool)
    with pytest.raises(ValueError, match="works on task vectors"):
        ByTensor(method="average").merge(pool)
