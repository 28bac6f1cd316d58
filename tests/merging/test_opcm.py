from __future__ import annotations

import numpy as np
import pytest

from plait.merging.opcm import Opcm
from plait.merging.pool import Pool


def norm(state):
    return np.sqrt(sum(np.square(value).sum() for value in state.values()))


def cleaned(delta, total, alpha):
    """A delta's projection by whole singular bases and a mask, as the paper has it."""
    u, sigma, vt = np.linalg.svd(total, full_matrices=True)
    above = np.cumsum(sigma) / sigma.sum() > alpha
    first = int(np.argmax(above))  # 0 where nothing is above, as the authors' code has it
    inside = u.T @ delta @ vt.T
    np.fill_diagonal(inside, 0)
    inside[:first, :first] = 0
    return u @ inside @ vt


def literal(base, models, alpha):
    """The paper's recursion, with λ and a rescaling after every model."""
    deltas = [{n: m[n] - base[n] for n in base} for m in models.values()]
    lengths, merged, factor = [norm(deltas[0])], deltas[0], 1.0
    for delta in deltas[1:]:
        lengths.append(norm(delta))
        total = {
            name: factor * merged[name]
            + (cleaned(value, merged[name], alpha) if value.ndim == 2 else value)
            for name, value in delta.items()
        }
        aim = np.mean(lengths)
        factor = norm(total) / aim
        merged = {name: value / factor for name, value in total.items()}
    return {name: base[name] + value for name, value in merged.items()}, np.mean(lengths)


def drawn(seed, models=4, tall=(6, 4)):
    draw = np.random.default_rng(seed)
    shapes = {"a": tall, "b": (3, 5), "bias": (4,)}
    base = {name: draw.normal(size=shape) for name, shape in shapes.items()}
    experts = {
        f"m{n}": {name: value + draw.normal(size=value.shape) for name, value in base.items()}
        for n in range(models)
    }
    return base, experts


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_the_merge_is_the_papers_recursion(alpha):
    base, models = drawn(1)
    wanted, length = literal(base, models, alpha)
    found = Opcm(alpha=alpha).merge(Pool(models, base)).tensors
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9)
    assert norm({n: found[n] - base[n] for n in base}) == pytest.approx(length)


def test_what_is_there_already_adds_nothing():
    base, models = drawn(2, models=2)
    step = models["m0"]["a"] - base["a"]
    one = {"w": base["a"] + step}
    pool = Pool({"x": one, "y": {"w": base["a"] - 2 * step}}, {"w": base["a"]})
    moved = Opcm().merge(pool).tensors["w"] - base["a"]
    np.testing.assert_allclose(moved, 1.5 * step, rtol=1e-9)


def test_a_model_is_orthogonal_to_those_before_it():
    base, models = drawn(3, models=2)
    pool = Pool({n: {"w": m["a"]} for n, m in models.items()}, {"w": base["a"]})
    first = models["m0"]["a"] - base["a"]
    moved = Opcm().merge(pool).tensors["w"] - base["a"]
    factor = np.vdot(moved, first) / np.vdot(first, first)
    assert np.linalg.norm(moved - factor * first) > 0.5
    rest = moved / factor - first
    assert abs(np.vdot(rest, first)) < 1e-9 * np.linalg.norm(rest) * np.linalg.norm(first)


def test_directions_that_no_model_had_take_nothing_out():
    base = {"w": np.zeros((3, 3))}
    second = np.diag([0.0, 4.0, 5.0])
    pool = Pool({"a": {"w": np.diag([7.0, 0.0, 0.0])}, "b": {"w": second}}, base)
    moved = Opcm().merge(pool).tensors["w"]
    np.testing.assert_allclose(moved / moved[0, 0] * 7, np.diag([7.0, 4.0, 5.0]), atol=1e-12)


def test_the_order_matters():
    base, models = drawn(4)
    one = Opcm().merge(Pool(models, base)).tensors["a"]
    two = Opcm().merge(Pool(dict(reversed(models.items())), base)).tensors["a"]
    assert np.abs(one - two).max() > 1e-2


def test_a_bad_alpha_is_refused():
    with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\], got 2"):
        Opcm(alpha=2)
