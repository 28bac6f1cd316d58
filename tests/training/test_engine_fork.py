"""Where the tasks part: one pass to there, and what does not part at one place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import plait
from plait.balancing.base import Balancer, Rung, Signals
from plait.method import Card
from plait.training import Engine
from plait.training.engine import Root
from plait.training.engine.fork import Fork, fork_of
from plait.training.graph import Graph

NAMES = "abc"


class Fixed(Balancer):
    """Looks at the Gramian and gives the weights 2, 3, 4."""

    card = Card(family="balancing", name="fixed", summary="for tests only")
    rung = Rung.GRAM

    def forward(self, s: Signals) -> Tensor:
        self.gram = s.gram
        return torch.arange(2.0, 2.0 + len(s.tasks), dtype=torch.float64)


class Mine(nn.Module):
    """A trunk and three heads; ``extra`` is used by the test."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4))
        self.heads = nn.ModuleDict({name: nn.Linear(4, 2) for name in NAMES})
        self.extra = nn.Parameter(torch.randn(4))
        self.x = torch.randn(9, 5)
        self.double()
        self.x = self.x.double()

    def head(self, name: str, features: Tensor) -> Tensor:
        loss: Tensor = (self.heads[name](features).sin() + ord(name) % 7).square().mean()
        return loss


def plainly(model: Mine, h: Tensor) -> dict[str, Tensor]:
    features = torch.tanh(h)
    return {name: model.head(name, features) for name in NAMES}


def at_the_output(model: Mine, h: Tensor) -> dict[str, Tensor]:
    return {name: model.head(name, h) for name in NAMES}


def on_own_rows(model: Mine, h: Tensor) -> dict[str, Tensor]:
    features = torch.tanh(h)
    return {name: model.head(name, features[k::3]) for k, name in enumerate(NAMES)}


def on_meeting_rows(model: Mine, h: Tensor) -> dict[str, Tensor]:
    rows = {"a": slice(0, 3), "b": slice(3, 6), "c": slice(5, 9)}
    return {name: model.head(name, h[rows[name]]) for name in NAMES}


def a_skip(model: Mine, h: Tensor) -> dict[str, Tensor]:
    """One task reads a tensor below the one that the others read."""
    losses = plainly(model, h)
    return {**losses, "b": losses["b"] + h[:, 0].square().mean()}


def a_shared_loss(model: Mine, h: Tensor) -> dict[str, Tensor]:
    """One task's loss is part of another's."""
    losses = plainly(model, h)
    return {**losses, "c": losses["c"] + 0.5 * losses["a"]}


def shared_in_the_head(model: Mine, h: Tensor) -> dict[str, Tensor]:
    """A shared parameter counts in one head as well."""
    losses = plainly(model, h)
    return {**losses, "a": losses["a"] * (1 + model.trunk[2].bias.square().sum())}


def read_twice(model: Mine, h: Tensor) -> dict[str, Tensor]:
    """One task reads the features through two operations."""
    features = torch.tanh(h)
    losses = {name: model.head(name, features) for name in NAMES}
    return {**losses, "b": losses["b"] + features[:, 1].square().mean()}


def one_that_reads_nothing(model: Mine, h: Tensor) -> dict[str, Tensor]:
    return {**plainly(model, h), "b": model.heads["b"].weight.square().sum()}


def a_bank(model: Mine, h: Tensor) -> dict[str, Tensor]:
    """A parameter that two tasks' heads have in common."""
    losses = plainly(model, h)
    return {n: loss * (1 + model.extra.sum().square()) for n, loss in losses.items()}


CASES: dict[str, Callable[[Mine, Tensor], dict[str, Tensor]]] = {
    function.__name__: function
    for function in (
        plainly,
        at_the_output,
        on_own_rows,
        on_meeting_rows,
        a_skip,
        a_shared_loss,
        shared_in_the_head,
        read_twice,
        one_that_reads_nothing,
        a_bank,
    )
}


def wanted(model: Mine, losses: dict[str, Tensor], raw: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """The Gramian and the update, each by a backward pass of its own."""
    shared = list(model.trunk.parameters())
    rows = [torch.autograd.grad(v, shared, retain_graph=True) for v in _reaching(losses, shared)]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    named = dict(model.named_parameters())
    weights = dict(zip(losses, (2, 3, 4), strict=True))
    total = sum(weights[name] * loss for name, loss in losses.items())
    found = dict(zip(named, _grad(total, named), strict=True))
    if raw:
        heads = {n: p for n, p in named.items() if not n.startswith("trunk")}
        found |= dict(zip(heads, _grad(sum(losses.values()), heads), strict=True))
    return jacobian @ jacobian.T, found


def _reaching(losses: dict[str, Tensor], shared: list[nn.Parameter]) -> list[Tensor]:
    zero = sum(0 * parameter.sum() for parameter in shared)
    return [loss + zero for loss in losses.values()]


def _grad(value: Tensor, named: dict[str, nn.Parameter]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        value, list(named.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )


@pytest.mark.parametrize("raw", [False, True], ids=["weighted heads", "raw heads"])
@pytest.mark.parametrize("name", CASES)
def test_wherever_the_tasks_part_gradients_are_those_of_separate_passes(monkeypatch, name, raw):
    monkeypatch.setattr(Fixed, "weights_heads", not raw)
    model, balancer = Mine(), Fixed()
    gram, update = wanted(model, CASES[name](model, model.trunk(model.x)), raw)
    specific = [p for n, p in model.named_parameters() if not n.startswith("trunk")]
    losses = CASES[name](model, model.trunk(model.x))
    plait.backward(losses, model.trunk.parameters(), balancer, specific=specific)
    torch.testing.assert_close(balancer.gram, gram, rtol=1e-11, atol=1e-13)
    for place, parameter in model.named_parameters():
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found, update[place], rtol=1e-11, atol=1e-13)


def fork(name: str) -> Fork | None:
    model = Mine()
    roots = [Root(loss) for loss in CASES[name](model, model.trunk(model.x)).values()]
    return fork_of(roots, Graph.of(roots), list(model.trunk.parameters()))


def test_it_is_seen_whether_they_part_at_one_place():
    assert fork("plainly").size == 36
    assert fork("a_bank").size == 36
    assert [len(readers) for readers in fork("read_twice").readers] == [1, 2, 1]
    assert [len(readers) for readers in fork("one_that_reads_nothing").readers] == [1, 0, 1]
    for name in ("a_skip", "a_shared_loss", "shared_in_the_head"):
        assert fork(name) is None, name


@pytest.mark.parametrize("place", ["first", "last", "features"])
@pytest.mark.parametrize("case", [plainly, on_own_rows])
def test_a_hook_on_a_tensor_is_part_of_the_gradient_once(place, case):
    def run(model: Mine) -> dict[str, Tensor]:
        first = model.trunk[0](model.x)
        last = model.trunk[2](torch.tanh(first))
        features = torch.tanh(last)
        {"first": first, "last": last, "features": features}[place].register_hook(lambda g: -3 * g)
        if case is plainly:
            return {name: model.head(name, features) for name in NAMES}
        return {name: model.head(name, features[k::3]) for k, name in enumerate(NAMES)}

    model, balancer = Mine(), Fixed()
    model.x = model.x[:3]  # so few rows that the inner kernel is used
    gram, update = wanted(model, run(model), raw=False)
    plait.backward(run(model), model.trunk.parameters(), balancer)
    torch.testing.assert_close(balancer.gram, gram, rtol=1e-11, atol=1e-13)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, update[name], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("case", ["at_the_output", "plainly", "a_skip", "shared_in_the_head"])
def test_features_are_descended_from_only_where_all_passes_them(case):
    model, balancer = Mine(), Fixed()
    _, update = wanted(model, CASES[case](model, model.trunk(model.x)), raw=False)
    features = model.trunk(model.x)
    losses = CASES[case](model, features)
    rows = [torch.autograd.grad(v, features, retain_graph=True)[0] for v in losses.values()]
    wide = torch.stack(rows).flatten(1)
    engine = Engine(at="features")
    plait.backward(losses, model.trunk.parameters(), balancer, features=features, engine=engine)
    torch.testing.assert_close(balancer.gram, wide @ wide.T, rtol=1e-11, atol=1e-13)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, update[name], rtol=1e-11, atol=1e-13)
