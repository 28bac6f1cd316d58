"""Merges that change the network: modules that depend on the row or its task, added to it.

What a :class:`Route` adds follows from the network's structure and the models' names alone, so that
a saved network is built again without any of the models, and its tensors are then filled in.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plait.merging.base import Merger
from plait.merging.results import Change
from plait.sites import has_role


class Route(Merger):
    """A merger that adds modules to the network."""

    @abstractmethod
    def lay(self, module: nn.Module, width: int, models: Sequence[str]) -> Change:
        """Add the modules, their tensors zero; what is to stand after and around it is returned.

        Features of the network are [N, width]; what stands after it is called with them and the
        places [N] of the rows' tasks among the models.
        """


class Chooser(nn.Module):
    """What runs around a network that is run twice: alone, and again as its first features say."""

    @abstractmethod
    def given(self, features: Tensor) -> AbstractContextManager[None]:
        """Inside, every row of the network runs by its features [B, width] of the run alone."""

    @abstractmethod
    def among(self, rows: Tensor) -> AbstractContextManager[None]:
        """Inside, of the rows at hand only these run, in this order."""


def feed_forward(module: nn.Module) -> list[list[str]]:
    """The paths of the trainable linear layers of every feed-forward part, in order.

    In transformers these are the inner and outer layers of each block; in other networks linear
    layers that stand in one container belong together.
    """
    paths = [
        path
        for path, one in module.named_modules()
        if isinstance(one, nn.Linear) and one.weight.requires_grad
    ]
    named = [path for path in paths if has_role(path, "inner") or has_role(path, "outer")]
    found: dict[str, list[str]] = {}
    for path in named or paths:
        block = re.match(r".*\.\d+(?=\.)", path) if named else None
        found.setdefault(block[0] if block else path.rpartition(".")[0], []).append(path)
    return list(found.values())


class Now:
    """The weights of the models for the rows that run now, [B, M]; and which positions are real.

    With ``averaged`` all rows of a batch have the same, their mean.
    """

    def __init__(self) -> None:
        self.weights: Tensor | None = None
        self.mask: Tensor | None = None
        self.averaged = False

    def __deepcopy__(self, memo: Any) -> Now:
        """A copy knows of no run."""
        return Now()

    def hear(self, _: nn.Module, __: Any, named: dict[str, Any]) -> None:
        """A hook before modules that are told of padding by ``attention_mask`` [B, positions]."""
        mask = named.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 2:
            self.mask = mask

    def settle(self, each: Tensor) -> None:
        """Take the mean over a row's real positions of weights [B, ..., M]."""
        if each.ndim > 2:
            mask = self.mask
            if mask is not None and mask.shape == each.shape[:-1]:
                real = mask.to(each.dtype).unsqueeze(-1)
                each = (each * real).sum(1) / real.sum(1).clamp(min=1)
            else:
                each = each.flatten(1, -2).mean(1)
        if self.averaged:
            each = each.mean(0, keepdim=True).expand_as(each)
        self.weights = each


class Router(nn.Module):
    """r = W₂ ReLU(W₁ h + b₁) + b₂ [B, M] of what goes into a feed-forward part, h [B, ..., n].

    With ``hidden`` 0 it is b₂, whatever the row.
    """

    def __init__(self, width: int, models: int, hidden: int, now: Now) -> None:
        super().__init__()
        self.now = now
        self.inner = nn.Parameter(torch.zeros(hidden, width))
        self.inner_bias = nn.Parameter(torch.zeros(hidden))
        self.outer = nn.Parameter(torch.zeros(models, hidden))
        self.outer_bias = nn.Parameter(torch.zeros(models))

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, ..., n] → [B, ..., M]."""
        if not len(self.inner):
            return self.outer_bias.expand(*inputs.shape[:-1], -1)
        hidden = torch.relu(nn.functional.linear(inputs, self.inner, self.inner_bias))
        return nn.functional.linear(hidden, self.outer, self.outer_bias)

    def before(self, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        """A hook before the first linear layer of the part."""
        self.now.settle(self(given[0]))


class Experts(nn.Module):
    """Σ_m r_m (δ_m x + β_m), added to what a linear layer makes of x."""

    def __init__(self, linear: nn.Linear, models: int, now: Now) -> None:
        super().__init__()
        self.now = now
        self.deltas = nn.Parameter(linear.weight.new_zeros(models, *linear.weight.shape))
        self.shifts = nn.Parameter(linear.weight.new_zeros(models, linear.out_features))

    def after(self, _: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A hook after the linear layer."""
        weights = self.now.weights
        if weights is None:
            raise RuntimeError("a routed layer ran before the first layer of its part")
        each = nn.functional.linear(given[0], self.deltas.flatten(0, 1), self.shifts.flatten())
        each = each.view(*each.shape[:-1], *self.shifts.shape)
        weights = weights.reshape(len(weights), *[1] * (each.ndim - 3), -1, 1)
        added: Tensor = (weights * each).sum(-2)
        return output + added


@dataclass(frozen=True)
class Part:
    """A routed feed-forward part: its router, and the experts at each of its layers by path."""

    router: Router
    experts: Mapping[str, Experts]


def route(module: nn.Module, paths: Sequence[str], models: int, hidden: int) -> Part:
    """Route the linear layers of one feed-forward part by a router on what goes into the first."""
    now = Now()
    first = module.get_submodule(paths[0])
    assert isinstance(first, nn.Linear)
    router = Router(first.in_features, models, hidden, now).to(first.weight)
    first.add_module("router", router)
    first.register_forward_pre_hook(router.before)
    pieces = paths[0].split(".")
    for count in range(len(pieces)):
        above = module.get_submodule(".".join(pieces[:count]))
        above.register_forward_pre_hook(now.hear, with_kwargs=True)
    found = {}
    for path in paths:
        linear = module.get_submodule(path)
        assert isinstance(linear, nn.Linear)
        found[path] = Experts(linear, models, now)
        linear.add_module("experts", found[path])
        linear.register_forward_hook(found[path].after)
    return Part(router, found)
