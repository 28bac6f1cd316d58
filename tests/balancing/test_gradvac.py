from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from gradients import bound, jacobian, signals

from plait.balancing.base import Signals
from plait.balancing.gradvac import GradVac
from plait.balancing.pcgrad import PCGrad


def by_vectors(rows: torch.Tensor, usual: np.ndarray, s: Signals, beta: float) -> torch.Tensor:
    """The paper's algorithm on the gradients themselves; ``usual`` is moved."""
    noise = s.noise(pairs=True)
    np.fill_diagonal(noise, 2.0)
    total = torch.zeros_like(rows[0])
    for i, row in enumerate(rows):
        v = row.clone()
        for j in noise[i].argsort()[:-1]:
            g = rows[j]
            cosine, goal = float(v @ g / v.norm() / g.norm()), float(usual[i, j])
            if cosine < goal:
                top = goal * (1 - cosine**2) ** 0.5 - cosine * (1 - goal**2) ** 0.5
                v = v + v.norm() * top / (g.norm() * (1 - goal**2) ** 0.5) * g
            usual[i, j] = (1 - beta) * goal + beta * cosine
        total += v
    return total


@pytest.mark.parametrize("tasks", [2, 5, 12])
def test_equals_the_papers_loop_over_many_steps(tasks: int):
    balancer, usual = GradVac(beta=0.2), np.zeros((tasks, tasks))
    for step in range(15):
        rows = jacobian(tasks, 8, step, spread=0.5)
        s = signals(rows, step=step)
        update = bound(balancer, s)(s) @ rows
        torch.testing.assert_close(update, by_vectors(rows, usual, s, 0.2), rtol=1e-9, atol=1e-9)
        balancer.advance(s)
        np.testing.assert_allclose(balancer.recall("usual", s, 1)[..., 0], usual, atol=1e-12)
    assert abs(usual).max() > 0.05


def test_with_nothing_usual_it_is_pcgrad():
    for seed in range(10):
        s = signals(jacobian(5, 6, seed), step=seed)
        torch.testing.assert_close(bound(GradVac(beta=0.0), s)(s), PCGrad()(s))


def test_an_edit_reaches_the_usual_cosine_and_leaves_what_is_orthogonal():
    rows = jacobian(2, 5, 0)
    s = signals(rows)
    balancer = bound(GradVac(beta=0.0), s)
    balancer.remember("usual", s, torch.full((2, 2, 1), 0.6).double())
    moved = (
        rows[0]
        + (
            balancer._project(
                (rows @ rows.T).numpy(), np.array([[0, 0.6], [-1.0, 0]]), np.array([[1], [0]])
            )
            - 1
        )[1]
        * rows[1]
    )
    cosine = moved @ rows[1] / moved.norm() / rows[1].norm()
    torch.testing.assert_close(cosine, torch.tensor(0.6).double())


def test_layers_are_vaccinated_one_by_one():
    parts = [jacobian(3, 4, seed) for seed in (0, 1)]
    layers = torch.stack([part @ part.T for part in parts])
    s = replace(signals(torch.cat(parts, 1)), layers=layers)
    balancer = bound(GradVac(by="layer", beta=0.5), s)
    for _ in range(3):
        weights = balancer(s)
        balancer.advance(s)
    alone = bound(GradVac(beta=0.5), signals(parts[1]))
    for _ in range(3):
        wanted = alone(signals(parts[1]))
        alone.advance(signals(parts[1]))
    torch.testing.assert_close(weights[1], wanted)
    assert weights.shape == (2, 3)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="beta must lie between"):
        GradVac(beta=2)
    with pytest.raises(ValueError, match="'model' or 'layer'"):
        GradVac(by="tensor")
