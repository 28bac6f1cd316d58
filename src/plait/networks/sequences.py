"""Sequences of items in their order: words with labels of their own, histories of behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plait.batch import Input
from plait.kinds import Place
from plait.networks.attention import blocks, waves
from plait.networks.positions import padded, remembered
from plait.networks.stems import Stem


class Attention(Stem):
    """Items' vectors with their places, through ``depth`` blocks of self-attention.

    A row's vector is the mean over its items, 0 where it has none; each item has its own vector for
    tasks that label items. Padding changes neither.
    """

    name = "attention"
    place: ClassVar[Place] = "token"

    def __init__(
        self, inputs: Sequence[Input], *, width: int = 64, depth: int = 1, heads: int = 4
    ) -> None:
        super().__init__(inputs, [width] * len(inputs))
        self.settings = {"width": width, "depth": depth, "heads": heads}
        self.tables = nn.ModuleList()
        self.layers = nn.ModuleList()
        for found in inputs:
            table = nn.Embedding(found.sizes[0], width, padding_idx=0)
            nn.init.normal_(table.weight)
            table.weight.data[0] = 0.0
            self.tables.append(table)
            self.layers.append(blocks(width, depth, heads))

    def encode(self, key: str, value: Tensor, dtype: torch.dtype) -> Tensor:
        states = self.states(key, value, dtype)
        real = (value != 0).to(states.dtype)
        share = real / real.sum(1, keepdim=True).clamp(min=1)
        return torch.bmm(share.unsqueeze(1), states).squeeze(1)

    def states(self, key: str, value: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ARG002
        return remembered(self, value, lambda value: self._run(self.keys.index(key), value))

    def _run(self, number: int, value: Tensor) -> Tensor:
        real = value != 0
        # A row without any item attends to its padding; what comes of it is never read.
        seen = real | ~real.any(1, keepdim=True)
        x: Tensor = self.tables[number](value)
        x = x + waves(value.shape[1], x.shape[2], x)
        layers = self.layers[number]
        assert isinstance(layers, nn.ModuleList)
        with padded(real):
            for block in layers:
                x = block(x, seen)
        return x * real.unsqueeze(2)

    def spec(self) -> dict[str, Any]:
        return dict(self.settings)
