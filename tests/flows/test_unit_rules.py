from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from plait.flows.units import unit_rules
from plait.merging.pleas import Pleas
from plait.merging.pool import Pool
from plait.merging.units import identity, units
from plait.merging.zipit import Zipit


class Block(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.down = nn.Sequential() if inside == outside else nn.Conv2d(inside, outside, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.down(x))


class Residual(nn.Module):
    """A small ResNet: a stem, three blocks of two widths, a branch that is gated, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.Sequential(Block(6, 6), Block(6, 10), Block(10, 10))
        self.gate = nn.Linear(10, 10)
        self.norm = nn.LayerNorm(10)
        self.head = nn.Sequential(nn.Linear(10, 7), nn.GELU(), nn.Linear(7, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(torch.relu(self.stem(x))).mean([2, 3])
        return self.head(self.norm(x * torch.sigmoid(self.gate(x))))


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3)
        self.deep = nn.Conv2d(5, 5, 3, groups=5, padding=1)
        self.fc = nn.Linear(5 * 4, 6)
        self.out = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(torch.relu(self.deep(self.conv(x))), 2)
        return self.out(F.dropout(torch.relu(self.fc(torch.flatten(x, 1))), 0.0))


def moved(module: nn.Module, rules: dict) -> dict[str, torch.Tensor]:
    """The module's state with every group of units in a random order."""
    state = {k: v.numpy() for k, v in module.state_dict().items()}
    found = units(Pool({"a": state}), rules)
    torch.manual_seed(3)
    orders = {group: torch.randperm(size) for group, size in found.sizes.items()}
    other = dict(module.state_dict())
    for name, axes in found.axes.items():
        for one in axes:
            places = (orders[one.group][:, None] * one.span + torch.arange(one.span)).reshape(-1)
            other[name] = other[name].index_select(one.axis, places)
    return other


CASES = [(Residual, (3, 8, 8)), (Flat, (2, 6, 6))]


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    module = kind()
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return module.eval()


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_units_may_change_their_order_and_the_function_stays(
    kind: type[nn.Module], shape: tuple[int, ...]
) -> None:
    module, x = made(kind), torch.randn(4, *shape)
    rules = unit_rules(module)
    wanted = module(x)
    state = moved(module, rules)
    changed = [name for name, value in state.items() if not value.equal(module.state_dict()[name])]
    assert set(changed) >= {name for name in rules if name.endswith("weight")} - {"norm.weight"} - {
        name for name in rules if "bn" in name
    }
    other = made(kind)
    other.load_state_dict(state)
    torch.testing.assert_close(other(x), wanted)


def test_streams_that_are_added_are_one_group() -> None:
    rules = unit_rules(made(Residual))
    assert rules["blocks.0.conv2.weight"][0] == rules["stem.weight"][0] == "stem"
    assert rules["blocks.1.down.weight"] == ["blocks.1.conv2", "stem"]
    assert rules["gate.weight"] == ["blocks.1.conv2", "blocks.1.conv2"]
    assert rules["head.2.weight"] == [None, "head.0"]
    assert "head.2.bias" not in rules


@pytest.mark.parametrize("method", [Zipit(), Pleas()])
@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_a_planted_order_is_found_again(
    method: Zipit | Pleas, kind: type[nn.Module], shape: tuple[int, ...]
) -> None:
    module, x = made(kind), torch.randn(4, *shape)
    rules = unit_rules(module)
    state = moved(module, rules)
    merger = type(method)(rules=rules)
    models = {"a": module.state_dict(), "b": state}
    pool = Pool({name: {k: v.numpy() for k, v in one.items()} for name, one in models.items()})
    merged = merger.merge(pool).tensors
    other = made(kind)
    other.load_state_dict({name: torch.from_numpy(value) for name, value in merged.items()})
    torch.testing.assert_close(other(x), module(x), rtol=1e-4, atol=1e-5)


class Tangled(nn.Module):
    """What must not be permuted: a cut of the units, a concatenation, a softmax over pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(4, 8)
        self.free = nn.Linear(8, 5)
        self.out = nn.Linear(5 + 8 + 8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        halves = self.one(x)[:, :4]
        mixed = torch.cat([self.two(x), torch.zeros_like(self.two(x))], 1)
        freed = self.free(self.three(x))
        return self.out(torch.cat([freed, mixed], 1)) + halves[:, :2]


def test_what_is_not_known_stays_as_it_is() -> None:
    rules = unit_rules(Tangled())
    assert rules == {"three.weight": ["three", None], "three.bias": ["three"],
                     "free.weight": [None, "three"]}  # fmt: skip


def test_an_embedding_writes_along_its_second_axis() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(9, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.tanh(self.words(x)))

    rules = unit_rules(Bag())
    assert rules == {"words.weight": [None, "->words"], "out.weight": [None, "words"]}
    pool = Pool({"a": {k: v.numpy() for k, v in Bag().state_dict().items()}})
    assert identity(units(pool, rules), 2)["words"].shape == (2, 6)


def test_a_module_that_cannot_be_traced_is_refused() -> None:
    class Choosing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"Choosing cannot be traced .* write its rules by hand"):
        unit_rules(Choosing())
