"""Networks whose units stand in another order: what the tests of matching share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

State = dict[str, np.ndarray]
WIDTHS = (6, 9, 8, 4)
RULES = {
    "0.weight": ["0", None], "0.bias": ["0"], "1.weight": ["1", "0"], "1.bias": ["1"],
    "2.weight": [None, "1"],
}  # fmt: skip


def mlp(seed: int, widths: Sequence[int] = WIDTHS) -> State:
    """Weights and biases of layers in sequence."""
    draw = np.random.default_rng(seed)
    state: State = {}
    for number, (inside, outside) in enumerate(pairwise(widths)):
        state[f"{number}.weight"] = draw.normal(size=(outside, inside))
        state[f"{number}.bias"] = draw.normal(size=outside)
    return state


def outputs(state: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """[B, i] → [B, o], with ReLU between the layers."""
    layers = len(state) // 2
    for number in range(layers):
        x = x @ state[f"{number}.weight"].T + state[f"{number}.bias"]
        x = np.maximum(x, 0) if number < layers - 1 else x
    return x


def shuffled(state: State, seed: int) -> State:
    """The same function with its hidden units in another order."""
    draw, found = np.random.default_rng(seed), dict(state)
    for number in range(len(state) // 2 - 1):
        order = draw.permutation(len(state[f"{number}.bias"]))
        for name in (f"{number}.weight", f"{number}.bias"):
            found[name] = found[name][order]
        found[f"{number + 1}.weight"] = found[f"{number + 1}.weight"][:, order]
    return found


def inputs(seed: int = 0, rows: int = 50) -> np.ndarray:
    """Rows to compare functions on."""
    return np.random.default_rng(seed).normal(size=(rows, WIDTHS[0]))
