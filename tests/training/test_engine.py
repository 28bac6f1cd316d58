"""``backward`` in a loop of one's own: exact gradients, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchjd.aggregation import MGDAWeighting
from training_toys import BALANCERS, Deck, furthest, make_network

import plait
from plait.balancing.base import Balancer, Rung, Signals
from plait.balancing.equal import Equal
from plait.balancing.famo import Famo
from plait.balancing.graddrop import GradDrop
from plait.balancing.pcgrad import PCGrad
from plait.balancing.uncertainty import Uncertainty
from plait.method import Card
from plait.training import Engine, Losses, losses_of
from plait.training.engine import NotFiniteError


class Mine(nn.Module):
    """Anyone's model: a trunk and two heads, nothing of plait in it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4))
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 1), "b": nn.Linear(4, 1)})
        self.double()

    def losses(self, seed: int = 0) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(16, 5, generator=draw, dtype=torch.float64)
        h = self.trunk(x)
        return {
            "a": (self.heads["a"](h)[:, 0] - x[:, 0]).square().mean(),
            "b": (self.heads["b"](h)[:10, 0] + 3 * x[:10, 0]).square().mean(),
        }


class Spy(Balancer):
    """Sees the Gramian, gives fixed weights to the first and the second task, heads included."""

    card = Card(family="balancing", name="spy", summary="for tests only")
    rung = Rung.GRAM

    def forward(self, s: Signals) -> torch.Tensor:
        self.seen = s
        return torch.arange(2.0, 2.0 + len(s.tasks), dtype=torch.float64)


def grads(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def model() -> Mine:
    return Mine()


def test_equal_is_the_backward_pass_of_the_sum(model):
    sum(model.losses().values()).backward()
    wanted = grads(model)
    model.zero_grad()
    signals = plait.backward(model.losses(), model.trunk.parameters())
    assert furthest(grads(model), wanted) == 0
    assert signals.tasks == ("a", "b")
    assert signals.weights.tolist() == [1, 1]


def test_gradients_are_added_to_those_that_are_there(model):
    for balancer in (Equal(), PCGrad()):
        model.zero_grad()
        plait.backward(model.losses(), model.trunk.parameters(), balancer, step=0)
        once = grads(model)
        plait.backward(model.losses(), model.trunk.parameters(), balancer, step=0)
        assert furthest(grads(model), {n: 2 * g for n, g in once.items()}) < 1e-15


def test_the_gramian_is_that_of_separate_backward_passes(model):
    rows = []
    for loss in model.losses().values():
        found = torch.autograd.grad(loss, list(model.trunk.parameters()), retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in found]))
    jacobian = torch.stack(rows)
    spy = Spy()
    signals = plait.backward(model.losses(), model.trunk.parameters(), spy)
    torch.testing.assert_close(signals.gram, jacobian @ jacobian.T, rtol=1e-12, atol=0)
    shared = torch.cat([p.grad.flatten() for p in model.trunk.parameters()])
    torch.testing.assert_close(shared, 2 * jacobian[0] + 3 * jacobian[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("balancer", [Spy, GradDrop])
def test_a_single_shared_number_has_gradients_like_any_parameter(model, balancer):
    number = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    rows = [torch.autograd.grad(number**3 * v, number)[0] for v in model.losses().values()]
    losses = {task: number**3 * loss for task, loss in model.losses().items()}
    seen = plait.backward(losses, [*model.trunk.parameters(), number], balancer())
    if balancer is Spy:
        torch.testing.assert_close(number.grad, 2 * rows[0] + 3 * rows[1])
    else:
        torch.testing.assert_close(seen.jacobian[:, -1], torch.stack(rows))


@pytest.mark.parametrize(("weighted", "factor"), [(True, 3.0), (False, 1.0)])
def test_heads_get_weighted_or_raw_gradients(model, monkeypatch, weighted, factor):
    raw = torch.autograd.grad(model.losses()["b"], model.heads["b"].weight)[0]
    monkeypatch.setattr(Spy, "weights_heads", weighted)
    plait.backward(model.losses(), model.trunk.parameters(), Spy())
    torch.testing.assert_close(model.heads["b"].weight.grad, factor * raw, rtol=1e-12, atol=0)


def test_five_lines_train_anyones_loop_with_every_balancer(model):
    for make in BALANCERS:
        torch.manual_seed(0)
        model.load_state_dict(Mine().state_dict())
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        balancer = make()
        first = sum(model.losses().values()).item()
        for _ in range(150):
            optimizer.zero_grad()
            signals = plait.backward(model.losses(), model.trunk.parameters(), balancer)
            optimizer.step()
            if balancer.second_look:
                balancer.advance(signals, torch.stack(list(model.losses().values())).detach())
        assert int(balancer.updates) == 150
        assert sum(model.losses().values()).item() < 0.1 * first, balancer.card.name


def test_steps_are_counted_so_that_random_methods_draw_anew(model):
    balancer, seen = GradDrop(), []
    for _ in range(3):
        model.zero_grad()
        plait.backward(model.losses(), model.trunk.parameters(), balancer)
        seen.append(model.trunk[0].weight.grad.clone())
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_chunks_of_tasks_in_one_batched_pass_are_exact(network, deck):
    found = []
    for chunk in (1, 2, 5):
        network.zero_grad()
        losses, _ = losses_of(network, deck.batch(0))
        shared, heads = network.shared_parameters(), network.specific_parameters()
        engine = Engine(chunk=chunk)
        plait.backward(losses, shared, PCGrad(), specific=heads, engine=engine, step=0)
        found.append(grads(network))
    assert furthest(found[0], found[1]) < 1e-14
    assert furthest(found[0], found[2]) < 1e-14


def test_agrees_with_torchjds_weighting_through_the_whole_engine(network, deck):
    class Mgda(Spy):
        def forward(self, s: Signals) -> torch.Tensor:
            return MGDAWeighting()(s.gram)

    losses, _ = losses_of(network, deck.batch(0))
    shared = network.shared_parameters()
    plait.backward(losses, shared, Mgda(), specific=network.specific_parameters())
    update = torch.cat([p.grad.flatten() for p in shared])
    losses, _ = losses_of(network, deck.batch(0))
    for value in losses.value:
        found = torch.autograd.grad(value, shared, retain_graph=True)
        assert float(torch.cat([g.flatten() for g in found]) @ update) > -1e-6  # its promise


@pytest.mark.parametrize("make", BALANCERS)
def test_a_preference_is_a_factor_of_its_tasks_loss(tasks, make):
    preferred = tasks.replace("real.1", preference=2.5)
    balancer, network = make(), make_network(preferred)
    signals = _step(balancer, network, losses_of(network, Deck(preferred).batch(0))[0])
    at = signals.tasks.index("real.1")
    if balancer.rung is Rung.LOSSES:
        plain, other = make(), make_network(tasks)
        told = _step(plain, other, losses_of(other, Deck(tasks).batch(0))[0])
        factor = torch.where(torch.arange(5) == at, 2.5, 1.0)
        torch.testing.assert_close(signals.weights, told.weights * factor)
    else:
        plain, other = make(), make_network(tasks)
        losses, _ = losses_of(other, Deck(tasks).batch(0))
        factor = torch.where(torch.arange(5) == at, 2.5, 1.0).double()
        told = _step(plain, other, Losses(losses.tasks, losses.value * factor, losses.units))
        if signals.weights is not None:  # they multiply the losses as the user knows them
            torch.testing.assert_close(signals.weights, told.weights * factor)
        assert furthest(grads(other), grads(network)) < 1e-12


def _step(balancer: Balancer, network: plait.Network, losses: Losses) -> Signals:
    shared, heads = network.shared_parameters(), network.specific_parameters()
    return plait.backward(losses, shared, balancer, specific=heads, step=0)


# -- what is not finite ----------------------------------------------------------------------------


@pytest.mark.parametrize("make", BALANCERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_loss_is_left_out_as_if_absent(model, make, value):
    alone = make()
    plait.backward({"a": model.losses()["a"]}, model.trunk.parameters(), alone, step=0)
    wanted = grads(model)
    model.zero_grad()
    losses = model.losses()
    losses["b"] = losses["b"] * value
    balancer = make()
    balancer.bind("ab")
    signals = plait.backward(losses, model.trunk.parameters(), balancer, step=0)
    assert signals.dropped == ("b",)
    assert signals.tasks == ("a",)
    assert furthest(grads(model), wanted) == 0
    balancer.advance(signals, signals.losses * 0.9)
    for name, state in balancer.state_dict().items():
        assert not (name.endswith("/b") and state.any()), f"{name} moved"


def test_a_broken_gradient_of_a_finite_loss_is_left_out(model):
    plait.backward({"a": model.losses()["a"]}, model.trunk.parameters(), PCGrad(), step=0)
    wanted = grads(model)
    model.zero_grad()
    losses = model.losses()
    losses["b"] = losses["b"] + (model.trunk[0].weight.sum() * 0).sqrt()  # the slope of √ at 0
    assert losses["b"].isfinite()
    signals = plait.backward(losses, model.trunk.parameters(), PCGrad(), step=0)
    assert signals.dropped == ("b",)
    assert furthest(grads(model), wanted) == 0


def test_stacked_losses_that_are_broken_name_the_task(network, deck):
    batch = deck.batch(0)
    batch.labels["real"].target[0] = torch.nan
    losses, _ = losses_of(network, batch)
    with pytest.raises(NotFiniteError, match=r"real.1; leave the records"):
        _step(Equal(), network, losses)


def test_no_finite_loss_at_all_is_an_error(model):
    losses = {name: loss * torch.nan for name, loss in model.losses().items()}
    with pytest.raises(ValueError, match="no task has a finite loss; not finite: a, b"):
        plait.backward(losses, model.trunk.parameters())


# -- what is refused -------------------------------------------------------------------------------


def test_a_shared_parameter_that_no_task_reaches_is_refused(model):
    stranger = nn.Parameter(torch.zeros(3, 9))
    shared = [*model.trunk.parameters(), stranger]
    with pytest.raises(ValueError, match=r"\(3, 9\), are reached by no task.*allow_unused"):
        plait.backward(model.losses(), shared, PCGrad())
    plait.backward(model.losses(), shared, PCGrad(), allow_unused=True)
    assert stranger.grad is None


def test_a_parameter_that_several_tasks_reach_must_be_shared(model):
    shared = list(model.trunk[0].parameters())
    with pytest.raises(ValueError, match=r"is reached by several tasks \('a', 'b'\)"):
        plait.backward(model.losses(), shared, PCGrad())
    rest = [p for p in model.parameters() if all(p is not s for s in shared)]
    plait.backward(model.losses(), shared, PCGrad(), specific=rest)
    assert model.trunk[2].weight.grad is not None


def test_mistakes_in_the_losses_are_refused_by_name(model):
    shared = list(model.trunk.parameters())
    losses = model.losses()
    with pytest.raises(ValueError, match="no losses"):
        plait.backward({}, shared)
    with pytest.raises(ValueError, match=r"'b' must be a scalar"):
        plait.backward({**losses, "b": torch.ones(3, requires_grad=True)}, shared)
    with pytest.raises(ValueError, match=r"'b' has no graph"):
        plait.backward({**losses, "b": losses["b"].detach()}, shared)
    with pytest.raises(ValueError, match="pcgrad compares gradients on shared parameters"):
        plait.backward(losses, [], PCGrad())


def test_what_is_no_loss_no_parameter_or_no_balancer_is_refused(model):
    losses, trunk = model.losses(), model.trunk
    with pytest.raises(TypeError, match=r"'b' must be a tensor with a graph, got float"):
        plait.backward({**losses, "b": 0.3}, trunk.parameters(), PCGrad())
    with pytest.raises(TypeError, match="found a Sequential"):
        plait.backward(losses, trunk, PCGrad())
    with pytest.raises(TypeError, match="found a tuple"):
        plait.backward(losses, trunk.named_parameters(), PCGrad())
    with pytest.raises(TypeError, match=r"got 'pcgrad'; make one before the loop"):
        plait.backward(losses, trunk.parameters(), "pcgrad")


def test_an_input_that_wants_a_gradient_is_told_from_a_parameter(model):
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def losses() -> dict[str, torch.Tensor]:
        h = model.trunk(x)
        return {name: head(h).square().mean() for name, head in model.heads.items()}

    with pytest.raises(ValueError, match=r"shape \(4, 5\) that is no parameter \(an input\?\)"):
        plait.backward(losses(), model.trunk.parameters(), PCGrad())
    heads = list(model.heads.parameters())
    plait.backward(losses(), model.trunk.parameters(), PCGrad(), specific=[x, *heads])
    assert x.grad is not None


@pytest.mark.parametrize("make", [PCGrad, GradDrop])
def test_reentrant_checkpoints_are_refused_and_others_are_exact(model, make):
    def gradients(**given: bool) -> dict[str, torch.Tensor]:
        model.zero_grad()
        x = torch.ones(4, 5, dtype=torch.float64, requires_grad="use_reentrant" in given)
        h = checkpoint(model.trunk, x, **given) if given else model.trunk(x)
        losses = {
            n: (head(h) + k).square().mean() for k, (n, head) in enumerate(model.heads.items())
        }
        specific = [x, *model.heads.parameters()]
        plait.backward(losses, model.trunk.parameters(), make(), specific=specific, step=0)
        return grads(model)

    with pytest.raises(ValueError, match="use_reentrant=False"):
        gradients(use_reentrant=True)
    assert furthest(gradients(use_reentrant=False), gradients()) < 1e-14


def test_a_balancer_learns_of_tasks_as_they_come(model):
    balancer = Uncertainty()
    losses = model.losses()
    plait.backward({"a": losses["a"]}, model.trunk.parameters(), balancer)
    moved = balancer.log_variance.clone()
    plait.backward(model.losses(), model.trunk.parameters(), balancer)
    assert balancer.tasks == ("a", "b")
    assert balancer.log_variance[0] != moved[0]


def test_a_second_look_is_left_to_the_caller(model):
    balancer = Famo()
    plait.backward(model.losses(), model.trunk.parameters(), balancer)
    assert int(balancer.updates) == 0


class Once(torch.autograd.Function):
    """Cannot be run for several tasks at once."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * float(grad.sum() * 0 + 1)


def test_a_function_that_cannot_be_batched_is_run_task_by_task(network, deck):
    found = []
    for engine in (Engine(chunk=1), Engine()):
        network.zero_grad()
        losses, _ = losses_of(network, deck.batch(0))
        losses = Losses(losses.tasks, Once.apply(losses.value), losses.units)
        shared, heads = network.shared_parameters(), network.specific_parameters()
        plait.backward(losses, shared, PCGrad(), specific=heads, engine=engine, step=0)
        found.append(grads(network))
    assert furthest(*found) < 1e-15
    losses, _ = losses_of(network, deck.batch(0))
    losses = Losses(losses.tasks, Once.apply(losses.value), losses.units)
    with pytest.raises(RuntimeError, match="Batching rule"):
        plait.backward(losses, shared, PCGrad(), specific=heads, engine=Engine(chunk=4), step=0)
