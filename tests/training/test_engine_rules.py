"""Every form of task gradients against one backward pass for each task, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from plait.training import Engine
from plait.training.engine import Gathered, Root, gather
from plait.training.engine.held import Dense, Entries, Held, Kernel, Segments
from plait.training.graph import Graph

TASKS = 5
ROWS = 6


class Net(nn.Module):
    """A trunk of the test's, and a linear head for each task."""

    def __init__(self, trunk: nn.Module, width: int, tasks: int = TASKS) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(tasks))
        self.double()

    def on_shared_rows(self, x: Tensor) -> list[Tensor]:
        h = self.trunk(x).flatten(1)
        return [(head(h).sin() + i).square().mean() for i, head in enumerate(self.heads)]

    def on_own_rows(self, x: Tensor) -> list[Tensor]:
        h = self.trunk(x).flatten(1)
        tasks = len(self.heads)
        return [(head(h[i::tasks]).sin() + i).square().mean() for i, head in enumerate(self.heads)]


class Twice(nn.Module):
    """One layer used at two depths."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(torch.tanh(self.layer(x))))


class Tied(nn.Module):
    """An embedding that is also the output's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 8)
        self.mix = nn.Linear(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.mix(self.table(ids).mean(1))), self.table.weight)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 16, padding_idx=0)
        self.block = nn.TransformerEncoderLayer(16, 2, 64, batch_first=True, dropout=0.0)

    def forward(self, ids: Tensor) -> Tensor:
        return self.block(self.table(ids))[:, 0]


class Plain(nn.Module):
    """Products written by hand, parameters in shapes of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(3, 4, 20) / 4)
        self.bias = nn.Parameter(torch.randn(3, 4))
        self.right = nn.Parameter(torch.randn(12, 7) / 3)
        self.scale = nn.Parameter(torch.randn(7))

    def forward(self, x: Tensor) -> Tensor:
        h = F.linear(x, self.experts.flatten(0, 1), self.bias.flatten())
        return torch.tanh(torch.tanh(h) @ self.right) * self.scale


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


def numbers(*shape: int) -> Callable[[int], Tensor]:
    return lambda rows: torch.randn(rows, *shape, dtype=torch.float64)


def words(length: int, size: int) -> Callable[[int], Tensor]:
    return lambda rows: torch.randint(0, size, (rows, length))


def mlp(norm: type[nn.Module] = nn.Identity) -> nn.Module:
    return nn.Sequential(nn.Linear(20, 24), norm(24), nn.Tanh(), nn.Linear(24, 9), nn.Tanh())


def cnn() -> nn.Module:
    early, late = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 30, 3, stride=2)
    return nn.Sequential(early, nn.Tanh(), late, nn.Tanh())


CASES: dict[str, tuple[Callable[[], nn.Module], int, Callable[[int], Tensor]]] = {
    "mlp": (mlp, 9, numbers(20)),
    "no bias": (lambda: nn.Sequential(nn.Linear(20, 9, bias=False), nn.Tanh()), 9, numbers(20)),
    "layer norm": (lambda: mlp(nn.LayerNorm), 9, numbers(20)),
    "batch norm": (lambda: mlp(nn.BatchNorm1d), 9, numbers(20)),
    "dropout": (lambda: mlp(lambda _: nn.Dropout(0.3)), 9, numbers(20)),
    "used twice": (lambda: Twice(nn.Linear(20, 20)), 20, numbers(20)),
    "tied": (Tied, 30, words(3, 30)),
    "embedding": (lambda: nn.Sequential(nn.Embedding(50, 6), nn.Flatten()), 18, words(3, 50)),
    "small table": (lambda: nn.Sequential(nn.Embedding(4, 6), nn.Flatten()), 18, words(3, 4)),
    "attention": (Attention, 16, words(4, 40)),
    "by hand": (Plain, 7, numbers(20)),
    "convolution": (cnn, 30, numbers(2, 4, 4)),
    "convolution twice": (lambda: Twice(nn.Conv2d(2, 2, 3, padding=1)), 32, numbers(2, 4, 4)),
    "grouped": (lambda: nn.Conv2d(4, 4, 3, groups=2), 16, numbers(4, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 2), 75, numbers(2, 4, 4)),
    "checkpointed": (lambda: Checkpointed(mlp()), 9, numbers(20)),
    "recurrent": (lambda: Last(nn.LSTM(5, 8, batch_first=True)), 8, numbers(3, 5)),
    "tokens": (lambda: nn.Sequential(mlp(), nn.Flatten()), 18, numbers(2, 20)),
}


class Last(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0][:, -1]


def directly(losses: list[Tensor], parameters: list[nn.Parameter]) -> Tensor:
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([g.to_dense().flatten() for g in found]))
    return torch.stack(rows)


def check(found: Gathered, jacobian: Tensor) -> None:
    """Its products, its rows and its updates are those of the Jacobian."""
    size = float(jacobian.square().sum())
    assert float((found.gram() - jacobian @ jacobian.T).abs().max()) < 1e-10 * size
    assert float((found.jacobian() - jacobian).abs().max()) < 1e-10 * size**0.5
    weights = torch.linspace(-1, 2, len(jacobian), dtype=torch.float64)
    update = [
        torch.zeros_like(p) if u is None else u.to_dense()
        for u, p in zip(found.update(weights), found.parameters, strict=True)
    ]
    assert all(u.shape == p.shape for u, p in zip(update, found.parameters, strict=True))
    flat = torch.cat([u.flatten() for u in update])
    assert float((flat - weights @ jacobian).abs().max()) < 1e-10 * size**0.5
    kept = [0, 2, 3]
    fewer = found.only(kept)
    assert float((fewer.jacobian() - jacobian[kept]).abs().max()) < 1e-10 * size**0.5


@pytest.mark.parametrize("engine", [Engine(), Engine(chunk=1)], ids=["auto", "one by one"])
@pytest.mark.parametrize("layout", ["on_shared_rows", "on_own_rows"])
@pytest.mark.parametrize("name", CASES)
def test_every_form_is_that_of_one_pass_for_each_task(name, layout, engine):
    make, width, draw = CASES[name]
    torch.manual_seed(3)
    net = Net(make(), width)
    losses = getattr(net, layout)(draw(ROWS * (TASKS if layout == "on_own_rows" else 1)))
    parameters = list(net.trunk.parameters())
    wanted = directly(losses, parameters)
    for whole in (False, True):
        for roots in (list(map(Root, losses)), stacked(losses)):
            check(gather(roots, parameters, engine, whole=whole), wanted)
        scalars = list(map(Root, losses))
        found = gather(scalars, parameters, engine, whole=whole, graph=Graph.of(scalars))
        check(found, wanted)


def stacked(losses: list[Tensor]) -> list[Root]:
    value = torch.stack(losses)
    return [Root(value, row) for row in torch.eye(len(losses), dtype=value.dtype)]


def forms(name: str, layout: str, rows: int = ROWS * TASKS) -> list[type[Held]]:
    make, width, draw = CASES[name]
    torch.manual_seed(0)
    net = Net(make(), width)
    losses = getattr(net, layout)(draw(rows))
    roots = list(map(Root, losses))
    found = gather(roots, list(net.trunk.parameters()), Engine(), graph=Graph.of(roots))
    return [type(part) for part in found.held]


def test_the_form_follows_from_the_layer_and_its_shape():
    assert forms("mlp", "on_shared_rows", rows=6) == [Kernel, Kernel]
    assert forms("mlp", "on_shared_rows", rows=100) == [Dense] * 4
    assert forms("mlp", "on_own_rows") == [Segments, Segments]
    assert forms("layer norm", "on_own_rows").count(Segments) == 2
    assert forms("embedding", "on_shared_rows", rows=6) == [Entries]
    assert forms("small table", "on_shared_rows", rows=6) == [Dense]
    assert forms("convolution", "on_shared_rows", rows=2) == [Kernel, Dense, Dense]
    assert forms("used twice", "on_shared_rows", rows=3) == [Kernel]


@pytest.mark.parametrize("name", ["batch norm"])
def test_rows_that_meet_are_never_taken_apart(name):
    assert Segments not in forms(name, "on_own_rows")


def test_rows_of_several_tasks_are_never_taken_apart():
    torch.manual_seed(0)
    net = Net(mlp(), 9)
    h = net.trunk(torch.randn(30, 20, dtype=torch.float64))
    losses = [
        head(h[5 * i : 5 * i + 6 if i == 2 else 5 * i + 5]).mean()
        for i, head in enumerate(net.heads)
    ]
    parameters = list(net.trunk.parameters())
    found = gather(list(map(Root, losses)), parameters, Engine())
    assert Segments not in {type(part) for part in found.held}
    check(found, directly(losses, parameters))


@pytest.mark.parametrize("tasks", [3, 70, 130])
def test_many_tasks_on_rows_of_their_own_are_told_apart(tasks):
    torch.manual_seed(0)
    net = Net(mlp(), 9, tasks).float()
    x = torch.randn(2 * tasks, 20)
    losses = net.on_own_rows(x)
    parameters = list(net.trunk.parameters())
    found = gather(list(map(Root, losses)), parameters, Engine())
    assert {type(part) for part in found.held} == {Segments}
    wanted = directly(losses, parameters)
    wanted = wanted @ wanted.T
    assert float((found.gram() - wanted).abs().max()) < 1e-5 * float(wanted.max())


def test_a_table_with_sparse_gradients_gets_sparse_updates():
    torch.manual_seed(0)
    for table in (nn.Embedding(50, 6, sparse=True), nn.EmbeddingBag(50, 6, sparse=True)):
        net = Net(nn.Sequential(table, nn.Flatten()), 18 if isinstance(table, nn.Embedding) else 6)
        losses = net.on_shared_rows(torch.randint(0, 50, (ROWS, 3)))
        found = gather(list(map(Root, losses)), list(net.trunk.parameters()), Engine())
        check(found, directly(losses, list(net.trunk.parameters())))
        (update,) = found.update(torch.ones(TASKS))
        assert update.is_sparse
        optimizer = torch.optim.SparseAdam(net.trunk.parameters())
        table.weight.grad = update
        optimizer.step()


def test_unreached_parameters_and_tasks_have_no_part():
    torch.manual_seed(0)
    net = Net(mlp(), 9)
    stranger = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    losses = net.on_shared_rows(torch.randn(ROWS, 20, dtype=torch.float64))
    losses[1] = net.heads[1].weight.sum()
    parameters = [stranger, *net.trunk.parameters()]
    found = gather(list(map(Root, losses)), parameters, Engine())
    assert found.update(torch.ones(TASKS))[0] is None
    assert not found.gram()[1].any()
    wanted = directly(losses, list(net.trunk.parameters()))
    assert torch.allclose(found.gram(), wanted @ wanted.T)


def test_lower_precision_forwards_are_as_good_as_their_own_gradients():
    torch.manual_seed(0)
    net = Net(mlp(), 9).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [loss.float() for loss in net.on_shared_rows(torch.randn(ROWS, 20))]
    parameters = list(net.trunk.parameters())
    found = gather(list(map(Root, losses)), parameters, Engine())
    assert {type(part) for part in found.held} == {Kernel}
    assert all(u.dtype == torch.float32 for u in found.update(torch.ones(TASKS)))
    wanted = directly(losses, parameters)
    torch.testing.assert_close(found.gram().float(), wanted @ wanted.T, rtol=0.03, atol=1e-3)
