from __future__ import annotations

import numpy as np
import pytest
from merging_toys import SHAPES, deltas

from plait.merging.one_bit import OneBit
from plait.merging.pool import Pool
from plait.merging.task_arithmetic import TaskArithmetic
from plait.method import MethodError
from plait.weights.sinks import Memory

MATRICES = ("a.0.weight", "a.1.weight")
INNER = {"task_arithmetic": {"scale": 0.3}}


@pytest.mark.parametrize("on", ["base", "merged"])
@pytest.mark.parametrize("rest", ["merged", "own"])
def test_a_task_is_served_its_signs(pool: Pool, on: str, rest: str) -> None:
    merged = OneBit(method=INNER, on=on, rest=rest).merge(pool)  # type: ignore[arg-type]
    plain = TaskArithmetic(scale=0.3).merge(pool).tensors
    for name in SHAPES:
        np.testing.assert_array_equal(merged.tensors[name], plain[name])
    for number, task in enumerate(pool.names):
        for name in SHAPES:
            own = deltas(pool, name)[number]
            if name in MATRICES:
                start = plain[name] if on == "merged" else pool.base[name]
                wanted = start + np.abs(own).mean() * np.sign(own)
            else:
                wanted = plain[name] if rest == "merged" else pool.base[name] + own
            np.testing.assert_allclose(merged.tasks[task][name], wanted, atol=1e-12)


def test_the_number_is_the_nearest_multiple_of_the_signs(pool: Pool) -> None:
    served = OneBit().merge(pool).tasks["y"]
    own = deltas(pool, "a.0.weight")[1]
    found = served["a.0.weight"] - pool.base["a.0.weight"]
    np.testing.assert_allclose(np.abs(found).sum(), np.abs(own).sum())
    error = ((own - found) ** 2).sum()
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert ((own - factor * found) ** 2).sum() > error


def test_a_task_keeps_a_bit_an_entry_and_a_number_a_matrix(pool: Pool) -> None:
    sink = Memory()
    OneBit(compress=("a.0.*",)).merge(pool, sink=sink)
    for task in pool.names:
        kept = sink.kept(task)
        assert set(kept) == {"a.0.weight.sign", "a.0.weight.size"}
        assert kept["a.0.weight.sign"].nbytes == 12 * 8 // 8


def test_equal_sizes_are_exact_and_zero_is_plus() -> None:
    sizes = np.array([[0.5, -0.5], [-0.5, 0.5]])
    pool = Pool({"a": {"w": sizes}, "b": {"w": np.array([[0.0, 2.0], [-2.0, 0.0]])}},
                {"w": np.zeros((2, 2))})  # fmt: skip
    merged = OneBit().merge(pool)
    np.testing.assert_array_equal(merged.tasks["a"]["w"], sizes)
    np.testing.assert_array_equal(merged.tasks["b"]["w"], [[1.0, 1.0], [-1.0, 1.0]])


def test_a_method_that_keeps_something_itself_is_refused(pool: Pool) -> None:
    with pytest.raises(MethodError, match="and so does its method"):
        OneBit(method="emr").merge(pool)
