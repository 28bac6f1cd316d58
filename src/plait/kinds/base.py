"""What a kind of task is: one object that says all in which it differs from the others.

A kind says what its targets are, which loss and metrics it has, how wide its head is, what its
labels predict before any input, and how predictions are judged. No other module asks which kind a
task is to decide any of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]
Place = Literal["row", "token", "pixel"]
# (truth [n, ...], which positions count [n, ...], predictions [n, ..., outputs], classes) → [n, K]
Tally = Callable[[Array, Array, Array, Sequence[str]], Array]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How targets of one kind are learnt and judged; the first metric is the one that ranks.

    ``loss`` is what trains it where nothing is said, ``losses`` are the others that can.

    ``place`` says what has a label: a row, or every token or pixel of a row, some of which may have
    none. Of those, ``tally`` adds up what a row's predictions are worth, so that no prediction is
    kept: the number of positions, the sum of their losses, and what the metrics need.

    ``mirror`` turns the labels of pixels [n, H, W, ...] as a mirror turns their images.

    ``labelled``: targets are numbers of classes, ``named``: of a task's own list of two or more;
    ``whole``: they are kept as whole numbers; ``standardised``: as (y − center)/scale.
    ``outputs`` maps the number of classes to the width of the head. ``prior`` maps targets [n],
    weights [n] and the number of classes to what they say before any input: class shares [C], a
    mean [1] or a rate [1]; ``bias`` maps that to the raw outputs that predict it. ``judge`` maps
    truth [n] and predictions, as users see them, to losses [n].
    """

    name: str
    loss: str
    losses: tuple[str, ...] = ()
    metrics: tuple[str, ...]
    outputs: Callable[[int], int]
    prior: Callable[[Tensor, Tensor, int], Tensor]
    bias: Callable[[Tensor], Tensor]
    judge: Callable[[Array, Array], Array]
    place: Place = "row"
    tally: Tally | None = None
    mirror: Callable[[Tensor], Tensor] | None = None
    labelled: bool = False
    named: bool = False
    whole: bool = False
    standardised: bool = False
    hints: tuple[str, ...] = ()


def tallied(truth: Array, tally: Array) -> Array:  # noqa: ARG001
    """The mean loss of each row's positions, from its tally [n, K]. [n]"""
    losses: Array = tally[:, 1] / np.maximum(tally[:, 0], 1)
    return losses
