"""What stays the same over a training."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from plait.batch import Batch
from plait.data.mixing import Feed
from plait.data.seeding import key
from plait.networks import Network
from plait.networks.base import task_slices
from plait.training.engine import Engine, Processes
from plait.training.measuring import Alignment, Layout


@dataclass
class Ground:
    """What stays the same over a training.

    ``autocast`` runs forwards in bfloat16, or as given. ``validation`` gives the held-out batch of
    each step, to those who ask for it. Of several ``processes`` each has a copy of the network and
    rows of its own. ``memory`` is what the procedure carries from step to step.
    """

    network: Network
    seed: int = 0
    micro_batches: int = 1
    autocast: bool | torch.dtype = False
    engine: Engine = field(default_factory=Engine)
    validation: Feed | None = None
    processes: Processes | None = None
    memory: nn.Module | None = None

    def __post_init__(self) -> None:
        parameters = list(self.network.parameters())
        self.device = parameters[0].device if parameters else torch.device("cpu")
        self.layout = Layout(self.network.tasks, self.device)
        self.shared = self.network.shared_parameters()
        self.specific = self.network.specific_parameters()
        self.parameters = [*self.shared, *self.specific]
        moving = (b for b in self.network.buffers() if b.is_floating_point())
        self.buffers = [buffer for buffer in moving if buffer.numel()]
        self.even = bool((self.layout.preferences == 1).all())
        self._places: dict[tuple[str, ...], Tensor] = {}
        self._alignments: dict[int, Alignment] = {}
        self._owners: dict[nn.Parameter, tuple[str, ...]] | None = None

    def aligned(self, batch: Batch) -> Batch:
        """The batch with its records numbered as the network's tasks are."""
        if batch.tasks is self.network.tasks:
            return batch
        known = self._alignments.get(id(batch.tasks))
        if known is None:
            known = self._alignments[id(batch.tasks)] = Alignment(batch.tasks, self.network.tasks)
        return known(batch)

    def places(self, parameter: nn.Parameter) -> Tensor:
        """Where the owners of a specific parameter's slices stand in the layout."""
        if self._owners is None:
            reach = self.network.reach()
            named = dict(self.network.named_parameters())
            self._owners = {named[n]: tuple(tasks) for n, tasks in reach.items() if n in named}
        names = task_slices(parameter) or self._owners[parameter]
        if names not in self._places:
            found = [self.layout.names.index(name) for name in names]
            self._places[names] = torch.tensor(found, device=self.device)
        return self._places[names]

    def preferring(self, preferences: Tensor) -> Ground:
        """The same ground with other preferences [T], in the layout's order."""
        other, layout = copy(self), copy(self.layout)
        wide = torch.promote_types(self.parameters[0].dtype, torch.float32)
        layout.preferences = preferences.to(self.device, wide)
        other.layout, other.even = layout, False
        return other

    def total(self, value: Tensor) -> Tensor:
        """The sum over processes of what each has."""
        return value if self.processes is None else self.processes.total(value)

    def gradients(self, found: list[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """Sums over processes of gradients on parameters ``like`` these."""
        return found if self.processes is None else self.processes.gradients(found, like)

    def reseed(self, *parts: object) -> None:
        """Key the randomness of the next forward (dropout, say)."""
        if self.processes is not None:
            parts = (*parts, "process", self.processes.rank)
        number = key(self.seed, *parts)
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(number)
        elif self.device.type == "mps":
            torch.mps.manual_seed(number)
