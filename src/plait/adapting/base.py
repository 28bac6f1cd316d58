"""Small modules on a frozen network: what an adapter is, and what stands at a site.

An :class:`Adapter` puts a :class:`SiteBank` at each of its sites: the small modules of all tasks
there. It is called in the frozen module's place, so it may change what goes in, what comes out, or
both; rows find their task's slice by the :class:`~plait.adapting.routing.Routing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from plait.adapting.routing import Routing
from plait.batch import Batch
from plait.method import Method
from plait.networks.base import Trunk, escape, task_slices
from plait.sites import ModuleSite, module_sites, role_sites
from plait.task import TaskSet


class SiteBank(nn.Module):
    """The small modules of one site, for all tasks.

    Slices that belong to one task each stand in a ``TaskBank`` inside; every other parameter is
    shared by all tasks. What several banks share they keep in a tuple, and :meth:`Adapter.attach`
    registers it once.
    """

    def once(self, present: Tensor) -> Any:  # noqa: ARG002
        """What is worked out once a forward, before any row runs, or None.

        ``present`` [T] says which tasks have rows. The banks read it by ``routing.made(self)``.
        """
        return None

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Any:
        """Stand in for the frozen ``base``, given its inputs."""
        raise NotImplementedError

    def fold(self, base: nn.Module, task: int) -> Mapping[str, Tensor]:  # noqa: ARG002
        """The base's tensors, by name, that give what the task at that position gets here.

        Raises ``ValueError`` where no plain tensors can.
        """
        raise ValueError("these adapters read their input and cannot be folded into weights")

    def advance(self, step: int) -> None:
        """Training is at this step; for what changes with it."""

    def stored(self, task: str) -> int:
        """How many numbers here belong to that task alone."""
        slices = [(p, task_slices(p) or ()) for p in self.parameters()]
        return sum(names.count(task) * p[0].numel() for p, names in slices if names)

    def taken(self) -> Tensor | None:
        """How much each task takes of each expert [T, E], where the task alone decides it."""
        return None

    def penalty(self, present: Tensor) -> Tensor | None:  # noqa: ARG002
        """What is added to the loss for the parameters of the ``present`` tasks [T], or None."""
        return None

    def exported(self, task: int) -> Mapping[str, Tensor]:  # noqa: ARG002
        """One task's tensors as peft's files name them; ``ValueError`` where they have no form."""
        raise ValueError("peft's files have no form for these adapters")

    def take(
        self,
        task: int,  # noqa: ARG002
        tensors: Mapping[str, Tensor],  # noqa: ARG002
        scale: float,  # noqa: ARG002
    ) -> None:
        """Fill one task's slice from the tensors of a file; ``ValueError`` where they do not fit.

        ``scale`` is the factor that the file's configuration puts on its products.
        """
        raise ValueError("peft's files have no form for these adapters")

    def like(self, base: nn.Module) -> Self:
        """Move to the type and device of the frozen module."""
        first = next((p for p in base.parameters() if p.is_floating_point()), None)
        return self if first is None else self.to(first)


class Adapted(nn.Module):
    """What stands at a site: the frozen module and its bank, which the adapted trunk owns."""

    def __init__(self, base: nn.Module, bank: SiteBank, routing: Routing) -> None:
        super().__init__()
        self.base = base
        self.routing = routing
        self.owner = (bank,)  # in a tuple, so that its parameters are not registered twice
        self.kept: dict[str, Tensor] = {}
        self.folded = False

    @property
    def bank(self) -> SiteBank:
        """The bank of this site."""
        return self.owner[0]

    @property
    def frozen(self) -> nn.Module:
        """The module beneath the adapters of all stages."""
        return self.base.frozen if isinstance(self.base, Adapted) else self.base

    def __getattr__(self, name: str) -> Any:
        """The frozen module's attributes, for code that asks a layer for its weight."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """As the frozen module, each row by its task."""
        if self.folded or self.routing.now.off:
            return self.frozen(*inputs, **named)
        if self.routing.now.first and isinstance(self.base, Adapted):
            return self.base(*inputs, **named)
        return self.bank(self.base, self.routing, *inputs, **named)

    @torch.no_grad()
    def fold(self, task: int) -> None:
        """Make one task part of the weights; ``ValueError`` where one is already, or cannot be."""
        if self.folded:
            raise ValueError("a task is folded in already; unfold it first")
        changed = self.bank.fold(self.frozen, task)
        own = dict(self.frozen.named_parameters())
        self.kept = {name: own[name].detach().clone() for name in changed}
        for name, value in changed.items():
            own[name].copy_(value)
        self.folded = True

    @torch.no_grad()
    def unfold(self) -> None:
        """Restore the frozen weights, bit for bit; ``ValueError`` where no task is folded in."""
        if not self.folded:
            raise ValueError("no task is folded in")
        own = dict(self.frozen.named_parameters())
        for name, value in self.kept.items():
            own[name].copy_(value)
        self.kept, self.folded = {}, False


def outermost(network: nn.Module) -> dict[str, Adapted]:
    """What stands at each site by its path: the last stage's, not the one that it wraps."""
    found = {path: m for path, m in network.named_modules() if isinstance(m, Adapted)}
    inner = {layer.base for layer in found.values()}
    return {path: layer for path, layer in found.items() if layer not in inner}


class Adapter(Method):
    """A kind of small module; ``card.family`` is ``adapting``.

    A setting ``sites`` holds glob patterns, or roles in angle brackets, of the modules to adapt;
    empty for the first of the method's ``places`` (roles) that the network has. ``types`` are those
    it can stand at. ``trained_on`` is the adapter that must have been trained on the network
    before, for methods of two stages: what that one trained is frozen then, and its sites are this
    one's. ``transformers_only`` marks what stands in attention or before embeddings; with ``whole``
    the network itself trains.
    """

    places: ClassVar[Sequence[Sequence[str]]] = (("query", "value"), ("linear",))
    types: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear,)
    transformers_only: ClassVar[bool] = False
    whole: ClassVar[bool] = False

    @property
    def named(self) -> Sequence[str]:
        """The setting ``sites``, where a method has it."""
        found: Sequence[str] = self.settings().get("sites", ())
        return found

    @property
    def trained_on(self) -> Adapter | None:
        """The adapter of the first stage, or None."""
        return None

    @property
    def taught(self) -> float:
        """How much what differs from the first stage's outputs counts in the loss of the second."""
        return 0.0

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Put the adapter at the sites; returns its banks by (escaped) path, all that it trains.

        Called with torch's randomness keyed by the seed, so that shared parameters may draw from
        it; task slices start by themselves. See :func:`put`.
        """
        raise NotImplementedError

    def choose(self, network: nn.Module) -> list[ModuleSite]:
        """The sites in a network.

        Raises ``ValueError`` with the nearest names for a pattern that matches none.
        """
        if self.trained_on is not None:
            return module_sites(network, self.named or None, types=(Adapted,))
        if self.named:
            return module_sites(network, self.named, types=self.types)
        for roles in self.places:
            if found := role_sites(network, *roles):
                return [site for site in found if isinstance(site.module, self.types)]
        listed = " or ".join(" and ".join(f"<{role}>" for role in roles) for roles in self.places)
        raise ValueError(f"the network has no {listed} for {self.card.name} to adapt; name sites")

    def peft_config(self, banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:  # noqa: ARG002
        """What peft's ``adapter_config.json`` says of one task's adapters, given by path.

        Raises ``ValueError`` where peft has no form for them.
        """
        raise ValueError(f"peft's files have no form for {self.card.name}")

    def begin(self, trunk: Trunk, batches: Iterable[Batch]) -> None:
        """Start from what attaching does not see, as training batches; called once, before any."""


def put(
    sites: Sequence[ModuleSite],
    routing: Routing,
    make: Callable[[ModuleSite], SiteBank],
    **shared: nn.Module,
) -> nn.ModuleDict:
    """Put a bank of its own at each site; returns them, with what they ``shared`` beside them."""
    banks = nn.ModuleDict(shared)
    for site in sites:
        bank = make(site).like(site.module)
        banks[escape(site.path)] = bank

        def wrapped(base: nn.Module, bank: SiteBank = bank) -> Adapted:
            return Adapted(base, bank, routing)

        site.replace(wrapped)
    return banks
