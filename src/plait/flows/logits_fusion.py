"""Dynamic logits fusion: a large language model answers as small fine-tuned ones have learned to.

    P̃ = softmax(l + Σ_t α_t (f_t − s)),   P = softmax(l),   Q = softmax(s),   Q_t = softmax(f_t)
    α = argmin Σ_t (KL(P̃‖P) − KL(Q_t‖Q))² + (KL(P‖P̃) − KL(Q‖Q_t))²

with logits l of the large model, s of the small base and f_t [V] of its fine-tuned experts, at
each position anew: the large model is moved as far as the experts have moved. α_t comes from
``GRID`` in [0, 2], each expert tried alone and the best one used; a constant α is proxy tuning.
After "On Giant's Shoulders: Effortless Weak to Strong by Dynamic Logits Fusion" (Fan et al., 2024);
its grid is not public, and this one is ours. A position costs a run of every model, and 21 T
softmaxes.

>>> import torch
>>> small, expert = torch.zeros(3), torch.tensor([2.0, 0.0, -1.0])
>>> found = fused(small, small, expert[None])
>>> found.weights, found.logs.exp().round(decimals=2)
(tensor([1.]), tensor([0.8400, 0.1100, 0.0400]))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

GRID = tuple(number / 10 for number in range(21))
Logits = Callable[[Tensor], Tensor]


class Fused(NamedTuple):
    """Log-probabilities [..., V] and the experts' weights [..., T]."""

    logs: Tensor
    weights: Tensor


@torch.no_grad()
def fused(
    large: Tensor, small: Tensor, tuned: Tensor, *, weights: Sequence[float] | None = None
) -> Fused:
    """Fuse logits [..., V] of the large model and the small base with the experts' [T, ..., V].

    With ``weights`` given for each expert these are used at every position. Raises ``ValueError``
    where vocabularies or positions differ.
    """
    if not large.shape == small.shape == tuned.shape[1:]:
        raise ValueError(
            "the models must have one vocabulary and the same positions: logits are "
            f"{list(large.shape)}, {list(small.shape)} and {list(tuned.shape)}"
        )
    moves = tuned - small
    if weights is not None:
        fixed = torch.tensor(weights).to(large)
        if len(fixed) != len(tuned):
            raise ValueError(f"{len(fixed)} weights for {len(tuned)} experts")
        logs = (large + torch.einsum("t,t...->...", fixed, moves)).log_softmax(-1)
        return Fused(logs, fixed.expand(*large.shape[:-1], -1))
    before, base = large.log_softmax(-1), small.log_softmax(-1)
    experts = tuned.log_softmax(-1)
    there, back = divergence(experts, base), divergence(base, experts)  # [T, ...]
    least = torch.full_like(large[..., 0], torch.inf)
    logs = before.clone()
    found = large.new_zeros(*large.shape[:-1], len(tuned))
    for number, move in enumerate(moves):
        for weight in GRID:
            tried = (large + weight * move).log_softmax(-1)
            gap = (divergence(tried, before) - there).square()
            gap = (gap + (divergence(before, tried) - back).square()).sum(0)
            better = gap < least
            least = torch.where(better, gap, least)
            logs = torch.where(better[..., None], tried, logs)
            one = torch.zeros_like(found)
            one[..., number] = weight
            found = torch.where(better[..., None], one, found)
    return Fused(logs, found)


def divergence(one: Tensor, two: Tensor) -> Tensor:
    """KL(one‖two) of log-probabilities [..., V], in nats. [...]"""
    return (one.exp() * (one - two)).sum(-1)


@torch.no_grad()
def decoded(
    large: Logits,
    small: Logits,
    tuned: Sequence[Logits],
    prompt: Tensor,
    steps: int,
    *,
    weights: Sequence[float] | None = None,
) -> Tensor:
    """The prompt [B, L] and ``steps`` tokens more, each the likeliest of the fused models.

    A model takes tokens [B, L] and gives the logits [B, V] of the next.
    """
    if not tuned:
        raise ValueError("there is no expert; name at least one fine-tuned small model")
    tokens = prompt
    for _ in range(steps):
        experts = torch.stack([model(tokens) for model in tuned])
        logs = fused(large(tokens), small(tokens), experts, weights=weights).logs
        tokens = torch.cat([tokens, logs.argmax(-1, keepdim=True)], -1)
    return tokens
