from __future__ import annotations

import pytest
import torch
from written_out import assert_features, batch_for, network, size, some_tasks

from plait.sharing import Moore
from plait.sharing.moore import orthonormal


def last_linear(experts, number, x):
    """One expert on one row: ReLU between its layers, none after the last."""
    for place, layer in enumerate(experts.layers):
        x = torch.relu(x) if place else x
        x = layer.weight[number] @ x + layer.bias[number]
    return x


@pytest.mark.parametrize(
    ("experts", "count", "more"),
    [(3, 3, {}), (1, 2, {}), (4, 1, {"missing": 0.0}), (2, 40, {"rows": 2, "missing": 0.3})],
)
def test_features_are_the_papers_one_row_at_a_time(experts, count, more):
    tasks = some_tasks(count)
    net, batch = network(Moore(experts=experts, width=5, depth=2), tasks), batch_for(tasks, **more)
    trunk, numeric = net.trunk, batch.parts["table"]["numeric"]

    def expected(task, row):
        found = []
        for number in range(experts):
            raw = last_linear(trunk.experts, number, numeric[row])
            left = raw - sum((torch.dot(raw, v) * v for v in found), torch.zeros(5).double())
            found.append(left / torch.sqrt(torch.dot(left, left)))
        weights = trunk.weights.weight[tasks.position[task]]
        return torch.tanh(sum(w * v for w, v in zip(weights, found, strict=True)))

    assert_features(net, batch, expected)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_experts_are_orthonormal_also_where_they_are_nearly_alike(dtype, within):
    draw = torch.Generator().manual_seed(0)
    raw = torch.randn(50, 6, 16, generator=draw, dtype=torch.float64)
    raw[:, 3] = raw[:, 0] + 1e-3 * raw[:, 3]
    raw[:, 4] = raw[:, 1] - 2 * raw[:, 2] + 1e-4 * raw[:, 4]
    found = orthonormal(raw.to(dtype)).double()
    gap = torch.bmm(found, found.transpose(1, 2)) - torch.eye(6)
    assert gap.abs().max() < within
    again = torch.bmm(torch.bmm(raw, found.transpose(1, 2)), found)  # the span is the same
    assert (again - raw).abs().max() < (1e-4 if dtype == torch.float32 else 1e-10)


def test_the_length_of_an_expert_says_nothing():
    raw = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scaled = raw * torch.tensor([7.0, 0.01, 300.0]).double()[None, :, None]
    torch.testing.assert_close(orthonormal(scaled), orthonormal(raw))


def test_dead_and_doubled_experts_give_numbers_and_gradients():
    raw = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    raw[0, 0], raw[1, 2], raw[2, 1] = 0, 0, 2 * raw[2, 0]
    raw.requires_grad_()
    found = orthonormal(raw)
    found.sum().backward()
    assert found.isfinite().all()
    assert raw.grad.isfinite().all()
    assert found.norm(dim=2).max() < 1 + 1e-12


@pytest.mark.parametrize("count", [1, 3, 40])
def test_parameters_are_the_formulas(count):
    net = network(Moore(experts=3, width=6, depth=3), some_tasks(count))
    assert size(net) == 3 * (5 * 6 + 2 * 7 * 6) + count * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experts": 0}, "experts must be at least 1"),
        ({"experts": 9, "width": 8}, "9 experts cannot be orthogonal in a width of 8"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Moore(**settings)
