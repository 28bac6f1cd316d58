"""The pipeline with the stages that later papers add: edits, non-linear combination, finish."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from plait.merging.base import Have, Pipeline
from plait.merging.pipeline import Free
from plait.merging.pool import Array, Pool
from plait.merging.stage import Combine, Context, Edit, Finish
from plait.merging.stages.sums import Sum

BASE = {"w": np.array([1.0, 1.0])}
POOL = Pool({"a": {"w": np.array([2.0, 1.5])}, "b": {"w": np.array([4.0, 0.0])}}, BASE)


class Trim(Edit):
    def __call__(self, deltas: Array, ctx: Context) -> Array:
        return np.where(np.abs(deltas) >= 1, deltas, 0)


class Largest(Combine):
    linear: ClassVar[bool] = False

    def __call__(self, deltas: Array, coefficients: Array, ctx: Context) -> Array:
        return (deltas * coefficients[:, None]).max(0)


class Cap(Finish):
    def __call__(self, delta: Array, ctx: Context) -> Array:
        assert ctx.models == ("a", "b")
        return np.minimum(delta, 2.0)


def test_stages_run_in_order() -> None:
    line = Pipeline(edits=(Trim(),), combine=Sum(), scale=1.0, finish=(Cap(),))
    np.testing.assert_allclose(line.run(POOL, Have()).tensors["w"], [3.0, 0.0])


@pytest.mark.parametrize("combine", [Sum(), Largest()])
@pytest.mark.parametrize("finish", [(), (Cap(),)])
def test_a_search_ends_at_what_a_fixed_scale_gives(combine: Combine, finish: tuple) -> None:
    free = Pipeline(combine=combine, scale=Free(grid=(0.25, 0.5), fallback=1.0), finish=finish)
    fixed = Pipeline(combine=combine, scale=0.5, finish=finish)
    found = free.run(POOL, Have(validation=lambda state: -float(state["w"][0])))
    assert found.evidence["scale"] == 0.5
    np.testing.assert_allclose(found.tensors["w"], fixed.run(POOL, Have()).tensors["w"])


def test_coefficients_per_model() -> None:
    line = Pipeline(combine=Sum(), scale={"b": 0.0, "a": 2.0})
    np.testing.assert_allclose(line.run(POOL, Have()).tensors["w"], [3.0, 2.0])
