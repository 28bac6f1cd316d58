"""Low-rank parts of several models, added to a shared network's layers by weights for every row.

    y + Σ_m w_m U_m V_m x,   U_m [o, r], V_m [r, n]

for what a layer makes of x: a linear layer, a convolution (V_m is one too), an embedding (V_m x is
a row of a table) or a layer norm, whose weights w_m γ_m [n] are whole. The weights [B, M] are those
of the rows that run now, which a router chooses; where none are given nothing is added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.merging.bench import keyed, put
from plait.merging.pool import Array
from plait.merging.route import Chooser
from plait.merging.statistics.inputs import CONVOLUTIONS, layers, units_last


class Rows:
    """The weights [B, M] of the models for the rows that run now, or None."""

    def __init__(self) -> None:
        self.weights: Tensor | None = None

    def __deepcopy__(self, memo: Any) -> Rows:
        """A copy knows of no run."""
        memo[id(self)] = found = Rows()
        return found

    @contextmanager
    def at(self, weights: Tensor | None) -> Iterator[None]:
        """Inside, the rows have these weights."""
        before, self.weights = self.weights, weights
        try:
            yield
        finally:
            self.weights = before


class Exclusive(nn.Module):
    """A layer's parts of M models, of rank ``rank``; those of a norm are whole."""

    def __init__(self, layer: nn.Module, models: int, rank: int, rows: Rows) -> None:
        super().__init__()
        self.rows = rows
        self.table = isinstance(layer, nn.Embedding)
        weight = layer._parameters["weight"]
        assert weight is not None
        if weight.ndim == 1:
            self.scales = nn.Parameter(weight.new_zeros(models, len(weight)))
            return
        out, inside = weight.shape[:2]
        if self.table:
            self.down = nn.Parameter(weight.new_zeros(out, models, rank))
            self.up = nn.Parameter(weight.new_zeros(models, inside, rank))
        else:
            self.down = nn.Parameter(weight.new_zeros(models, rank, *weight.shape[1:]))
            self.up = nn.Parameter(weight.new_zeros(models, out, rank))

    def fill(self, model: int, delta: Array) -> None:
        """Put in a model's difference at the weight, as near as the rank allows."""
        if delta.ndim == 1:
            put(self.scales[model], 0, delta)
            return
        flat = delta.reshape(len(delta), -1).astype(np.float64)
        u, s, vt = np.linalg.svd(flat, full_matrices=False)
        rank = self.up.shape[-1]
        left, right = u[:, :rank] * s[:rank], vt[:rank]
        down, up = (left, right.T) if self.table else (right, left)
        with torch.no_grad():
            into = self.down[:, model] if self.table else self.down[model]
            into.copy_(torch.from_numpy(np.ascontiguousarray(down)).view(into.shape))
            self.up[model].copy_(torch.from_numpy(np.ascontiguousarray(up)))

    def after(self, layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> Tensor:
        """A hook after the layer."""
        weights = self.rows.weights
        if weights is None:
            return made
        if given[0].shape[0] not in (1, len(weights)):
            raise RuntimeError(
                f"{len(weights)} rows choose their models, and a layer is given "
                f"{given[0].shape[0]}; it does not keep rows along the first axis"
            )
        if isinstance(layer, CONVOLUTIONS):
            return made + self._parts(layer, given[0], weights).movedim(-1, 1)
        return made + self._parts(layer, given[0], weights)

    def _parts(self, layer: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
        """[B, ..., o], units last."""
        if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
            own = weights @ self.scales
            return own.view(len(own), *[1] * (x.ndim - 2), -1) * _normed(layer, x)
        models, out, rank = self.up.shape
        inner = units_last(layer, _inner(layer, x, self.down))
        each = inner.view(*inner.shape[:-1], models, rank)
        each = weights.view(len(weights), *[1] * (each.ndim - 3), models, 1) * each
        up = self.up.transpose(0, 1).reshape(out, models * rank)
        return F.linear(each.flatten(-2), up)


def split(module: nn.Module, models: int, keep: float, rows: Rows) -> dict[str, Exclusive]:
    """Add parts for so many models at all layers that have any, by the names of their weights.

    Those of a weight [o, n] have rank ⌊keep min(o, n)⌋.
    """
    found = {}
    for name, layer in _layers(module).items():
        weight = layer._parameters["weight"]
        assert weight is not None
        rank = int(keep * min(len(weight), weight[0].numel())) if weight.ndim > 1 else 1
        if rank and weight.requires_grad:
            found[name] = Exclusive(layer, models, rank, rows)
            layer.add_module("exclusive", found[name])
            layer.register_forward_hook(found[name].after)
    return found


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    """The layers that can have parts, by the names of their weights."""
    found = layers(module)
    for path, one in module.named_modules():
        norm = isinstance(one, nn.LayerNorm | nn.RMSNorm) and one.elementwise_affine
        if isinstance(one, nn.Embedding) or (norm and len(one.normalized_shape) == 1):
            found[f"{path}.weight" if path else "weight"] = one
    return found


def _inner(layer: nn.Module, x: Tensor, down: Tensor) -> Tensor:
    """V_m x of all models side by side, as the layer runs."""
    if isinstance(layer, nn.Embedding):
        return F.embedding(x, down.flatten(1))
    if isinstance(layer, CONVOLUTIONS):
        found: Tensor = layer._conv_forward(x, down.flatten(0, 1), None)
        return found
    return F.linear(x, down.flatten(0, 1))


def _normed(layer: nn.LayerNorm | nn.RMSNorm, x: Tensor) -> Tensor:
    """What a norm makes of x before its own scale and bias."""
    shape = list(layer.normalized_shape)
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(x, shape, None, None, layer.eps)
    return F.rms_norm(x, shape, None, layer.eps)


class Router(nn.Module):
    """Scores [B, M] of the models from features [B, d]."""

    def __init__(self, width: int, models: int) -> None:
        super().__init__()
        sides = (width, 2 * width, 2 * width, models)
        self.weights = nn.ParameterList(torch.zeros(b, a) for a, b in pairwise(sides))
        self.biases = nn.ParameterList(torch.zeros(side) for side in sides[1:])
        self.norms = nn.ModuleList(nn.BatchNorm1d(2 * width) for _ in range(2))

    def start(self, seed: int, models: Sequence[str]) -> None:
        """Draw the weights; those of a model's score follow from its name."""
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            out, inside = weight.shape
            last = number == len(self.weights) - 1
            for place, name in enumerate(models if last else range(out)):
                draw = keyed(seed, "router", number, name)
                put(weight[place], 0, inside**-0.5 * draw.uniform(-1, 1, inside))
                put(bias[place : place + 1], 0, inside**-0.5 * draw.uniform(-1, 1, 1))

    def forward(
        self, x: Tensor, draw: np.random.Generator | None = None, dropout: float = 0.0
    ) -> Tensor:
        """With ``draw`` the share ``dropout`` of the hidden values is dropped."""
        *hidden, last = zip(self.weights, self.biases, strict=True)
        for (weight, bias), norm in zip(hidden, self.norms, strict=True):
            x = F.leaky_relu(norm(F.linear(x, weight, bias)))
            if draw is not None and dropout:
                kept = torch.from_numpy(draw.random(x.shape) >= dropout).to(x)
                x = x * kept / (1 - dropout)
        return F.linear(x, *last)


class Choice(Chooser):
    """The weights [B, M] of the models for every row, softmax of the router's scores."""

    def __init__(self, width: int, models: int, rows: Rows) -> None:
        super().__init__()
        self.rows = rows
        self.router = Router(width, models)

    def given(self, features: Tensor) -> AbstractContextManager[None]:
        """Inside, every row takes the parts that its features [B, d] choose."""
        return self.rows.at(self.router(features).softmax(-1))

    def among(self, rows: Tensor) -> AbstractContextManager[None]:
        """Inside, only these rows run."""
        weights = self.rows.weights
        return self.rows.at(None if weights is None else weights[rows])
