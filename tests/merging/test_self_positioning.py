from __future__ import annotations

import numpy as np
import pytest
import torch
from learned import learned
from merging_nets import net_bench, net_pool

from plait.merging.base import Have
from plait.merging.pool import Pool
from plait.merging.self_positioning import SelfPositioning, turned
from plait.merging.task_arithmetic import TaskArithmetic

FEW = {"steps": 6, "batch": 6, "rate": 0.1}


def flat(state):
    return torch.cat([torch.as_tensor(value).flatten() for value in state.values()])


def vectors(pool):
    return [flat(model) - flat(pool.base) for model in pool.models.values()]


def slerp(one, two, a, b):
    """One step between two whole vectors."""
    angle = torch.acos(one @ two / (one.norm() * two.norm()))
    parts = torch.sin(angle * a / (a + b)) * one + torch.sin(angle * b / (a + b)) * two
    return parts / torch.sin(angle)


def placed(given, weights):
    """V_M from whole vectors."""
    found = given[0]
    for k in range(1, len(given)):
        found = slerp(found, given[k], weights[:k].mean(), weights[k])
    return found


def test_the_place_is_found_on_arcs_between_whole_vectors():
    given = vectors(net_pool())
    gram = torch.stack(given) @ torch.stack(given).T
    weights = torch.tensor([0.4, 1.7, 0.9], dtype=torch.float64)
    found = turned(weights, gram)
    torch.testing.assert_close(
        sum(c * v for c, v in zip(found, given, strict=True)), placed(given, weights)
    )
    torch.testing.assert_close(turned(5 * weights, gram), found)


def test_at_the_ends_one_vector_is_left_and_equal_lengths_stay():
    gram = torch.tensor([[4.0, 1.0], [1.0, 4.0]], dtype=torch.float64)
    ends = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(turned(ends[0], gram), ends[0])
    torch.testing.assert_close(turned(ends[1], gram), ends[1])
    middle = turned(torch.tensor([0.3, 0.9], dtype=torch.float64), gram)
    assert float(middle @ gram @ middle) == pytest.approx(4)


def test_weights_and_length_are_those_of_the_papers_loop():
    pool = net_pool()
    found = SelfPositioning(penalty=0.5, **FEW).merge(pool, Have(bench=net_bench()))
    given = torch.stack(vectors(pool))
    free = torch.ones(4, dtype=torch.float64, requires_grad=True)

    def every(free):
        place = free[-1] * placed(given, free[:-1])
        rows = torch.linalg.lstsq(given.T, place[:, None]).solution[:, 0]  # back to coefficients
        return rows.expand(len(pool.base), -1)

    def after():
        free[:-1].clamp_(min=1e-6)
        free[-1].clamp_(min=0)

    adam = torch.optim.Adam([free], lr=0.1)
    learned(
        pool, net_bench(), free, every, adam, steps=6, batch=6, after=after,
        extra=lambda free: 0.5 * free[-1],
    )  # fmt: skip
    *weights, length = free.tolist()
    assert max(abs(weight - 1) for weight in weights) > 0.1
    np.testing.assert_allclose(list(found.evidence["weights"].values()), weights, rtol=1e-6)
    assert found.evidence["length"] == pytest.approx(length, rel=1e-6)
    merged = flat(pool.base) + length * placed(given, torch.tensor(weights, dtype=torch.float64))
    np.testing.assert_allclose(flat(found.tensors).numpy(), merged.numpy(), rtol=1e-6)


def test_a_large_penalty_drives_the_length_to_nothing():
    pool = net_pool()
    found = SelfPositioning(penalty=1e3, steps=12, rate=0.1, batch=4)
    merged = found.merge(pool, Have(bench=net_bench()))
    assert merged.evidence["length"] == 0
    for name, value in pool.base.items():
        np.testing.assert_allclose(merged.tensors[name], value, atol=1e-12)


def test_vectors_of_one_direction_lie_on_the_line():
    pool = net_pool(("x",))
    model, base = pool.models["x"], pool.base
    twice = {name: base[name] + 2 * (value - base[name]) for name, value in model.items()}
    both = Pool({"x": model, "y": twice}, base)
    found = SelfPositioning(steps=2, rate=1e-9).merge(both, Have(bench=net_bench(("x", "y"))))
    for name, value in TaskArithmetic(scale=1.5).merge(pool).tensors.items():
        np.testing.assert_allclose(found.tensors[name], value, rtol=1e-6)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="start and penalty must not be negative"):
        SelfPositioning(penalty=-1)
