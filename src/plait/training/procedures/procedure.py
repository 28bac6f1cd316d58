"""What a method that changes the step is: the hooks that a training calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from plait.balancing.base import Balancer, Signals
from plait.method import Method
from plait.networks import Network
from plait.training.optim import Group, RowwiseAdamW

if TYPE_CHECKING:
    from plait.training.procedures.base import Problem

Validate = Callable[[Network], Mapping[str, float]]  # a network's validation losses by task


class Procedure(Method):
    """A method that changes the step itself; ``card.family`` is ``procedure``.

    ``needs_validation`` procedures look at held-out rows (``problem.held_out()``).
    """

    needs_validation: ClassVar[bool] = False

    def prepare(self, network: Network) -> Network:
        """The network to train, made before its optimizer; one already prepared is returned."""
        return network

    def memory(self, network: Network) -> nn.Module | None:  # noqa: ARG002
        """What it carries from step to step: saved with the training, at hand as ``ground.memory``.

        ``gradients`` reads it and may note what it will be; ``advance`` moves it.
        """
        return None

    def optimizer(self, network: Network, groups: list[Group], rate: float) -> Optimizer:  # noqa: ARG002
        """The optimizer of a training that is given none."""
        return RowwiseAdamW(groups, lr=rate)

    def gradients(self, problem: Problem, balancer: Balancer) -> Signals:
        """Fill ``.grad`` of every parameter for one step, and say what was seen.

        Raises :class:`NotFiniteError`; ``fit`` then repeats the step without those tasks.
        """
        raise NotImplementedError

    def advance(self, problem: Problem, signals: Signals) -> None:
        """Move the memory, the step having been taken."""

    def closing(self, network: Network, validate: Validate) -> Iterable[Mapping[str, Any]]:  # noqa: ARG002
        """Events about the trained network, told once at the end; ``validate`` gives its losses."""
        return ()
