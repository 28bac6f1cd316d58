from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from merging_toys import SHAPES, deltas

from plait.merging.doge import Doge
from plait.merging.pool import Pool

MATRICES = ("a.0.weight", "a.1.weight")


def by_the_code(pool: Pool, *, scale: float, keep: float, divisor: int, steps: int) -> dict:
    """The method as the authors' code orders it, its gradient by central differences."""
    stacks = {name: deltas(pool, name) for name in MATRICES}
    changes: dict[str, np.ndarray] = {}
    for name, stack in stacks.items():
        factors = [scale / np.linalg.norm(delta) for delta in stack]
        rank = min(stack.shape[1:]) // len(stack)
        left = np.hstack([np.linalg.svd(delta)[0][:, :rank] for delta in stack])
        basis = np.linalg.svd(left)[0][:, : min(stack.shape[1:]) // divisor]

        def losses(x: np.ndarray, stack: Any = stack, factors: Any = factors) -> np.ndarray:
            """The loss of each row; rows do not meet."""
            merged = sum(f * (delta + x) for f, delta in zip(factors, stack, strict=True))
            return sum(((delta * (delta - merged)).sum(1)) ** 2 for delta in stack)

        x = np.zeros(stack.shape[1:])
        first, second = x.copy(), x.copy()
        for step in range(1, steps + 1):
            g = np.zeros_like(x)
            for column in range(x.shape[1]):
                probe = np.zeros_like(x)
                probe[:, column] = 0.5  # exact: the loss is quadratic
                g[:, column] = losses(x + probe) - losses(x - probe)
            g -= basis @ basis.T @ g
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
            x = x - 1e-4 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        changes[name] = x
    result = {name: np.zeros(stack.shape[1:]) for name, stack in stacks.items()}
    for number in range(len(pool)):
        flat = np.abs(np.concatenate([stack[number].ravel() for stack in stacks.values()]))
        least = np.sort(flat)[len(flat) - int(len(flat) * keep) - 1]
        for name, stack in stacks.items():
            own = stack[number]
            factor = scale / np.linalg.norm(own)
            result[name] += factor * (np.abs(own) >= least) * (own + changes[name])
    return result


@pytest.mark.parametrize(("keep", "divisor"), [(0.3, 6), (0.8, 2)])
def test_it_is_the_authors_procedure(pool: Pool, keep: float, divisor: int) -> None:
    settings = {"scale": 0.7, "keep": keep, "divisor": divisor, "steps": 30}
    wanted = by_the_code(pool, **settings)  # type: ignore[arg-type]
    with patch("plait.merging.engine.BLOCK", 8):
        merged = Doge(**settings).merge(pool).tensors  # type: ignore[arg-type]
    for name in SHAPES:
        expected = wanted.get(name, np.zeros(SHAPES[name]))
        np.testing.assert_allclose(merged[name] - pool.base[name], expected, atol=1e-9)


def test_one_model_at_its_own_length_needs_no_change() -> None:
    own = np.random.default_rng(0).normal(size=(6, 5))
    pool = Pool({"a": {"w": own}}, {"w": np.zeros((6, 5))})
    merged = Doge(scale=float(np.linalg.norm(own)), keep=1.0).merge(pool).tensors["w"]
    np.testing.assert_allclose(merged, own, atol=1e-12)


def test_vectors_and_tables_stay_at_the_base_and_have_no_part_in_the_threshold(pool: Pool) -> None:
    loud = {
        name: {**state, "a.0.bias": state["a.0.bias"] + 100.0}
        for name, state in pool.models.items()
    }
    plain = Doge(steps=5).merge(pool).tensors
    other = Doge(steps=5).merge(Pool(loud, pool.base)).tensors
    for name in SHAPES:
        np.testing.assert_array_equal(other[name], plain[name])
    np.testing.assert_array_equal(plain["a.0.bias"], pool.base["a.0.bias"])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        Doge(keep=0.0)
    with pytest.raises(ValueError, match="divisor"):
        Doge(divisor=0)
