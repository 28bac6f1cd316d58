from __future__ import annotations

import pytest
import torch

from plait.networks import Features, routed_linear, routing


def case(rows, tasks, share, outputs, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    asked = torch.rand(tasks, rows, generator=generator) < share
    task, row = asked.nonzero().unbind(1)
    x, w, b = (
        torch.randn(*s, generator=generator, dtype=torch.float64, requires_grad=True)
        for s in ((rows, width), (tasks, outputs, width), (tasks, outputs))
    )
    return task, row, x, w, b


def loop(x, row, task, w, b):
    return torch.stack([w[t] @ x[r] + b[t] for t, r in zip(task, row, strict=True)])


@pytest.mark.parametrize("way", ["_dense", "_gather", "_segments"])
@pytest.mark.parametrize(("rows", "tasks", "share", "outputs"), [(9, 3, 0.9, 1), (7, 5, 0.3, 4)])
def test_every_way_equals_the_loop(way, rows, tasks, share, outputs, monkeypatch):
    task, row, x, w, b = case(rows, tasks, share, outputs)
    monkeypatch.setattr(routing, "DENSE", 1e9 if way == "_dense" else 0)
    monkeypatch.setattr(routing, "GATHER", 1e9 if way == "_gather" else 0)
    used = []
    kept = getattr(routing, way)
    monkeypatch.setattr(routing, way, lambda *a: used.append(way) or kept(*a))
    found = routed_linear(Features(x, row), task, w, b)
    expected = loop(x, row, task, w, b)
    assert used == [way]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weight = torch.randn_like(found)
    for ours, theirs in zip(
        torch.autograd.grad((found * weight).sum(), (x, w, b)),
        torch.autograd.grad((expected * weight).sum(), (x, w, b)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rows", [3, 200])
def test_a_broken_absent_task_touches_nothing(rows):
    task, row, x, w, b = case(rows, 4, 0.9, 2)
    keep = task != 2
    w.data[2] = float("nan")
    found = routed_linear(Features(x, row[keep]), task[keep], w, b)
    dx, dw, _ = torch.autograd.grad(found.sum(), (x, w, b))
    assert found.isfinite().all()
    assert dx.isfinite().all()
    assert (dw[2] == 0).all()


def test_one_record_and_none():
    _, _, x, w, b = case(3, 2, 1.0, 2)
    one = torch.tensor([1])
    assert routed_linear(Features(x, one), one, w, b).shape == (1, 2)
    assert routed_linear(Features(x, one[:0]), one[:0], w, b).shape == (0, 2)
