from __future__ import annotations

import pytest
import torch
from torch import nn
from training_toys import BALANCERS, Deck, furthest, make_network

from plait.balancing.equal import Equal
from plait.batch import Batch, Labels
from plait.networks import Outputs
from plait.task import Task, TaskSet
from plait.training.procedures.base import Ground, Problem
from plait.training.procedures.plain import Plain
from plait.training.procedures.task_sam import TaskSam


def filled(network: nn.Module, batch: Batch, procedure, make=Equal) -> dict[str, torch.Tensor]:
    network.zero_grad()
    balancer = make()
    balancer.bind(network.tasks.names)
    procedure.gradients(Problem(Ground(network, seed=1), batch, 0), balancer)
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("make", BALANCERS)
@pytest.mark.parametrize("adaptive", [True, False])
def test_no_climb_is_the_plain_step(tasks, make, adaptive):
    tasks = tasks.replace("real.1", preference=2.5)
    batch = Deck(tasks).batch(0)
    plain = filled(make_network(tasks), batch, Plain(), make)
    sam = filled(make_network(tasks), batch, TaskSam(rho=0.0, adaptive=adaptive), make)
    assert furthest(plain, sam) < 1e-14


class Quadratic(nn.Module):
    """L_i = ½ θᵀQ_iθ + c_i (θ_i² − 1)²: shared θ, and one own number for each of two tasks."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        root = torch.randn(2, 3, 3, generator=draw, dtype=torch.float64)
        self.Q = root @ root.transpose(1, 2)
        self.tasks = TaskSet([Task(name="a", kind="real"), Task(name="b", kind="real")])
        self.theta = nn.Parameter(torch.randn(3, generator=draw, dtype=torch.float64))
        self.own = nn.Parameter(torch.tensor([0.5, -2.0], dtype=torch.float64))
        self.own.plait_tasks = ("a", "b")

    def loss(self, i: int, theta: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        return theta @ self.Q[i] @ theta / 2 + (own**2 - 1) ** 2

    def forward(self, parts, asked) -> Outputs:
        losses = torch.stack([self.loss(i, self.theta, self.own[i]) for i in range(2)])
        # The loss is (raw − 0)², so its root is what the head emits.
        return Outputs({"real": losses.sqrt()[asked["real"].task][:, None]}, {}, {})

    def shared_parameters(self):
        return [self.theta]

    def specific_parameters(self):
        return [self.own]

    def reach(self):
        return {"theta": frozenset("ab"), "own": frozenset("ab")}


@pytest.mark.parametrize("adaptive", [True, False])
def test_on_quadratics_the_rise_has_a_closed_form(adaptive):
    """h_i = ρ Q_i v_i/‖v_i‖, and what is the task's own climbs by itself."""
    network, rho = Quadratic(), 0.3
    task = torch.tensor([0, 1])
    labels = {"real": Labels(task, torch.tensor([0, 0]), torch.zeros(2, dtype=torch.float64))}
    parts = {"table": {"numeric": torch.zeros(1, 1)}}
    batch = Batch(parts, labels, network.tasks, torch.tensor([0]))
    theta, own = network.theta.detach().clone(), network.own.detach().clone()
    found = filled(network, batch, TaskSam(rho=rho, adaptive=adaptive))
    wanted = torch.zeros(3, dtype=torch.float64)
    for i in range(2):
        g = network.Q[i] @ theta
        v = theta**2 * g if adaptive else g
        norm = (theta.abs() * g).norm() if adaptive else g.norm()
        wanted += g + rho * network.Q[i] @ v / norm
        slope = 4 * own[i] * (own[i] ** 2 - 1)
        step = own[i] ** 2 * slope / (own[i].abs() * slope.abs()) if adaptive else slope.sign()
        top = own[i] + rho * step
        assert found["own"][i] == pytest.approx(float(4 * top * (top**2 - 1)), rel=1e-10)
    torch.testing.assert_close(found["theta"], wanted, rtol=1e-9, atol=0)


def test_parameters_come_back_exactly_even_from_an_error(tasks):
    network, batch = make_network(tasks), Deck(tasks).batch(0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    filled(network, batch, TaskSam(rho=0.5))
    assert all(torch.equal(before[n], v) for n, v in network.state_dict().items())
    forward, looks = network.heads.forward, []

    def failing(*given):
        looks.append(1)
        if len(looks) == 3:
            raise RuntimeError("in the middle")
        return forward(*given)

    network.heads.forward = failing
    with pytest.raises(RuntimeError, match="in the middle"):
        filled(network, batch, TaskSam(rho=0.5))
    assert all(torch.equal(before[n], v) for n, v in network.state_dict().items())


def test_every_look_has_the_same_dropout_mask(tasks):
    network, batch = make_network(tasks, dropout=0.5), Deck(tasks).batch(0)
    plain = filled(network, batch, Plain())
    sam = filled(network, batch, TaskSam(rho=1e-9))
    assert furthest(plain, sam) < 1e-6


def test_rho_is_checked():
    with pytest.raises(ValueError, match="rho"):
        TaskSam(rho=-0.1)
