"""Gradients that stand for those on all shared parameters: at the features, or the last layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, Rung
from plait.training.engine.fork import Fork
from plait.training.engine.gather import Engine, gather
from plait.training.engine.gathered import Gathered, layers
from plait.training.engine.held import Dense, Held
from plait.training.engine.passes import Own, stacked
from plait.training.engine.roots import Root


def place_of(engine: Engine, balancer: Balancer) -> str:
    """Where the gradients are taken, the engine's word before the balancer's.

    Raises ``ValueError`` where the balancer needs those on all shared parameters.
    """
    at = engine.at or balancer.at
    asked = {
        "the gradients themselves": balancer.rung is Rung.JACOBIAN,
        "those of each layer": balancer.by_layer,
        "those on several parts of the batch": balancer.samples > 1,
    }
    for what, yes in asked.items():
        if yes and at != "shared":
            raise ValueError(
                f"{balancer.card.name} needs {what}; at={at!r} is for methods that need no more "
                "than the products of task gradients"
            )
    return at


def last_layer(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """The last parameter of two dimensions or more, and the vectors after it."""
    found = layers(parameters)
    return [p for p, number in zip(parameters, found, strict=True) if number == found[-1]]


def at_last(roots: Sequence[Root], parameters: Sequence[nn.Parameter], engine: Engine) -> Gathered:
    """The task gradients on the last shared layer: the pass ends there."""
    return gather(roots, last_layer(parameters), engine)


def at_features(
    roots: Sequence[Root],
    features: Sequence[Tensor],
    fork: Fork | None = None,
    own: Own | None = None,
) -> Gathered:
    """The task gradients at the shared representation, tensors that the losses are made from.

    Where the losses part there, ``fork``, one pass gives them all.

    Raises ``ValueError`` where there is none, and where no two tasks read the same rows of it.
    """
    if not features or not all(feature.requires_grad for feature in features):
        raise ValueError(
            'at="features" needs the shared representation, a tensor with a graph between the '
            "shared parameters and the heads: pass it as `features`"
        )
    rows: list[Tensor | None]
    if fork is not None and len(features) == 1 and fork.is_at(features[0]):
        rows = [fork.cotangents(roots, own)]
    else:
        rows = [row for row, _ in stacked(roots, list(features), 1, own=own)]
    held: list[Held] = [Dense((k,), row) for k, row in enumerate(rows) if row is not None]
    if not held:
        raise ValueError("no loss depends on `features`; pass the tensor that the heads read")
    found = Gathered(list(features), held, len(roots))
    gram = found.gram()
    there = gram.diagonal() > 0
    if int(there.sum()) > 1 and not bool(torch.triu(gram, 1).any()):
        raise ValueError(
            'at="features": every row of the features is read by one task only, so the products '
            'of task gradients there are all zero and show no conflict; use at="shared"'
        )
    return found
