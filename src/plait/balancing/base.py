"""What every balancer is: per-task losses and gradients in, weights for one update out.

``forward`` is a pure function of the signals and of the balancer's state; ``advance`` moves the
state once the step has been taken. State lies in buffers and is saved by task name (see
:class:`~plait.balancing.state.TaskState`); a task that is absent from a step keeps its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from plait.balancing.signals import Rung, Signals
from plait.balancing.state import TaskState
from plait.method import Method, resolve

__all__ = ["Balancer", "Rung", "Signals", "Wrapper"]


class Balancer(TaskState, Method):
    """Turns signals into weights.

    ``forward`` returns the weights [t], or on the Jacobian rung the shared update itself [P].
    ``weights_heads`` says whether what is not shared (heads, private modules) receives weighted or
    raw gradients. ``blind`` balancers need no losses of the step to weigh it. ``second_look`` asks
    for the losses of the same batch again after the step, ``needs_validation`` for
    ``signals.validation``, the losses on held-out rows before it, ``needs_table`` for
    ``informed``, once, before the training.

    Asked of the Gram rung: ``at`` ``"last"`` takes the gradients on the last shared layer only.
    ``by_layer`` asks for ``signals.layers`` and allows weights for each layer, [g, t]. ``samples``
    k > 1 asks for ``signals.samples``, the products between k independent parts of the batch, and
    allows weights for each part, [k, t].

    State is declared in ``memory``, ``vectors`` and ``pairs``. ``learns`` names the memory that
    Adam trains on ``objective``, with the settings ``rate`` and ``decay`` (added to the gradient).
    """

    rung: Rung = Rung.LOSSES
    weights_heads: bool = True
    blind: bool = False
    second_look: bool = False
    needs_validation: bool = False
    needs_table: bool = False
    at: Literal["shared", "last"] = "shared"
    by_layer: bool = False
    samples: int = 1
    learns: ClassVar[str] = ""
    rate: float = 0.025
    decay: float = 0.0

    updates: Tensor  # how many steps it has weighed
    adam_steps: Tensor
    adam_mean: Tensor
    adam_square: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def forward(self, s: Signals) -> Tensor:
        """The weights [t] of the present tasks; on the Jacobian rung the shared update [P]."""
        raise NotImplementedError

    def objective(self, learnt: Tensor, s: Signals, after: Tensor | None) -> Tensor | None:
        """What the learnt state [t] of the present tasks is trained to minimise; None: not now."""
        raise NotImplementedError

    def informed(self, theta: Mapping[str, Tensor]) -> Self:  # noqa: ARG002
        """A balancer for these tasks: θ [k, d] of each are its labels' products with the inputs.

        Means over the training rows, columns and labels standardised; k is 1, or the classes.
        """
        return self

    def asks(self, tasks: tuple[str, ...], step: int) -> Rung:
        """The rung that this step needs: ``rung``, or one below it where old answers will do."""
        del tasks, step
        return self.rung

    def fresh(self) -> Self:
        """A balancer with the same settings and no history."""
        given = self.settings()
        return type(self)(
            **{k: v.fresh() if isinstance(v, Balancer) else v for k, v in given.items()}
        )

    def fills(self) -> dict[str, float]:
        """The start of every state, Adam's included."""
        own = ("adam_steps", "adam_mean", "adam_square") if self.learns else ()
        return {**super().fills(), **dict.fromkeys(own, 0.0)}

    @torch.no_grad()
    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        """Move the state of the present tasks, the step having been taken.

        ``after`` [t] are the losses of the same batch again, for those that want a second look.
        """
        self.updates += 1
        if not self.learns:
            return
        rows = self.rows(s)
        learnt = getattr(self, self.learns)[rows].requires_grad_()
        with torch.enable_grad():
            objective = self.objective(learnt, s, after)
        if objective is None:
            return
        (gradient,) = torch.autograd.grad(objective, learnt)
        self._adam(rows, learnt.detach(), gradient)

    def _adam(self, rows: Tensor | slice, value: Tensor, gradient: Tensor) -> None:
        gradient = gradient + self.decay * value
        steps = self.adam_steps[rows] + 1
        mean = self.adam_mean[rows].lerp(gradient, 0.1)
        square = self.adam_square[rows].lerp(gradient.square(), 0.001)
        scale = (square / (1 - 0.999**steps)).sqrt() + 1e-8
        getattr(self, self.learns)[rows] = value - self.rate * mean / (1 - 0.9**steps) / scale
        self.adam_steps[rows], self.adam_mean[rows], self.adam_square[rows] = steps, mean, square


class Wrapper(Balancer):
    """A balancer around another, which is its setting ``balancer``.

    What the inner one asks for it asks for, unless the class says more; the inner one is bound,
    moved and saved with it. A subclass calls ``super().__init__(balancer)`` first, and ``forward``
    asks ``self.balancer(s)``.
    """

    parts: ClassVar = {"balancer": "balancing"}
    balancer: Balancer

    def __init__(self, balancer: Balancer | str) -> None:
        super().__init__()
        self.balancer = resolve("balancing", balancer)
        inner, cls = self.balancer, type(self)
        self.rung = max(cls.rung, inner.rung)
        self.samples = max(cls.samples, inner.samples)
        self.at = inner.at if cls.at == "shared" else cls.at
        self.weights_heads = cls.weights_heads and inner.weights_heads
        self.blind = cls.blind and inner.blind
        self.second_look = cls.second_look or inner.second_look
        self.needs_validation = cls.needs_validation or inner.needs_validation
        self.needs_table = cls.needs_table or inner.needs_table
        self.by_layer = cls.by_layer or inner.by_layer

    def bind(self, tasks: Iterable[str]) -> None:
        """Hold state for these tasks, here and inside."""
        tasks = tuple(tasks)
        super().bind(tasks)
        self.balancer.bind(tasks)

    def informed(self, theta: Mapping[str, Tensor]) -> Self:
        """The same around the inner balancer, informed."""
        return type(self)(**{**self.settings(), "balancer": self.balancer.informed(theta)})

    def asks(self, tasks: tuple[str, ...], step: int) -> Rung:
        """What the inner one asks for, and the wrapper's own rung at least."""
        return max(type(self).rung, self.balancer.asks(tasks, step))

    def advance(self, s: Signals, after: Tensor | None = None) -> None:
        """Move the inner balancer's state and the wrapper's own."""
        super().advance(s, after)
        self.balancer.advance(s, after)
