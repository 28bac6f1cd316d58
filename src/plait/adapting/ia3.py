r"""Vectors that scale what frozen layers say: keys, values and the feed-forward part's inside.

    y_b = l_t ⊙ (W₀ x_b + bias)          at keys and values,  l [T, d_out]
    y_b = W₀ (l_t ⊙ x_b) + bias          at the sites of ``inputs``,  l [T, d_in]

t is the task of row b; l starts at 1, so the adapted network begins as the frozen one. One vector
is gathered for each row and multiplied: the cost does not grow with T. Where a network has no
attention, the outputs of its linear layers are scaled. Parameters: T·d for each site.

    >>> import torch
    >>> from plait import Task, TaskSet
    >>> from plait.adapting import Routing
    >>> from plait.sites import module_sites
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3))
    >>> x, before = torch.ones(2, 4), net(torch.ones(2, 4))
    >>> routing, tasks = Routing(), TaskSet([Task(name="a"), Task(name="b")])
    >>> banks = Ia3().attach(module_sites(net, "0"), tasks, routing)
    >>> _ = banks["0"].scales.data[1].fill_(3.0)
    >>> with routing.to(torch.tensor([1, 0])):
    ...     torch.allclose(net(x), torch.tensor([[3.0], [1.0]]) * before)
    True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plait.adapting.banks import OwnBank, linear_at
from plait.adapting.base import Adapter, SiteBank, put
from plait.adapting.routing import Routing
from plait.method import Card, Law, Paper
from plait.networks.base import ones
from plait.sites import ModuleSite, has_role
from plait.task import TaskSet


@dataclass(frozen=True, kw_only=True)
class Ia3(Adapter):
    """Scaling vectors. ``inputs``: roles of the sites whose input is scaled, not their output."""

    inputs: Sequence[str] = ("outer",)
    sites: Sequence[str] = ()
    places = (("key", "value", "outer"), ("linear",))

    card = Card(
        family="adapting",
        name="ia3",
        summary="Vectors that scale keys, values and the feed-forward part's inside.",
        paper=Paper(
            title="Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than "
            "In-Context Learning",
            authors="Haokun Liu and Derek Tam and Mohammed Muqeeth and Jay Mohta and "
            "Tenghao Huang and Mohit Bansal and Colin Raffel",
            year=2022,
            venue="NeurIPS",
            url="https://arxiv.org/abs/2205.05638",
        ),
        laws=frozenset({Law.PERMUTATION, Law.ABSENT, Law.ROWS}),
        deviations=("outputs are scaled with their bias, as in peft",),
    )

    def attach(
        self, sites: Sequence[ModuleSite], tasks: TaskSet, routing: Routing
    ) -> nn.ModuleDict:
        """Wrap the linear layers at the sites; ``ValueError`` for a site of another type."""

        def bank(site: ModuleSite) -> SiteBank:
            inside = any(has_role(site.path, role) for role in self.inputs)
            return _Ia3Bank(tasks.names, linear_at(site, "ia3"), inside=inside)

        return put(sites, routing, bank)

    def peft_config(self, banks: Mapping[str, SiteBank], task: int) -> dict[str, Any]:
        """As IA3."""
        rows = {path: len(bank.exported(task)["ia3_l"]) == 1 for path, bank in banks.items()}
        inside = sorted(path for path, is_row in rows.items() if is_row)
        return {"peft_type": "IA3", "feedforward_modules": inside, "fan_in_fan_out": False}


class _Ia3Bank(OwnBank):
    """l [T, d_in] or [T, d_out] of one site."""

    def __init__(self, names: Sequence[str], linear: nn.Linear, *, inside: bool) -> None:
        super().__init__(names)
        self.inside = inside
        width = linear.in_features if inside else linear.out_features
        self.add("scales", width, start=ones)

    def forward(self, base: nn.Module, routing: Routing, *inputs: Any, **named: Any) -> Tensor:  # noqa: ARG002
        (x,) = inputs
        if self.inside:
            found: Tensor = base(self._scaled(x, routing))
            return found
        return self._scaled(base(x), routing)

    def _scaled(self, x: Tensor, routing: Routing) -> Tensor:
        own = self.stack("scales").index_select(0, routing.task)
        return (routing.by_row(x) * own.unsqueeze(1)).view(x.shape)

    def fold(self, base: nn.Module, task: int) -> Mapping[str, Tensor]:
        """The weight with its columns or rows scaled, and then the bias too."""
        own = self.stack("scales")[task]
        if self.inside:
            return {"weight": base.get_parameter("weight") * own}
        return {
            name: (own.unsqueeze(1) if value.ndim > 1 else own) * value
            for name, value in base.named_parameters()
        }

    def exported(self, task: int) -> Mapping[str, Tensor]:
        """A column for outputs, a row for inputs."""
        own = self.stack("scales")[task]
        return {"ia3_l": own.unsqueeze(0 if self.inside else 1)}

    @torch.no_grad()
    def take(self, task: int, tensors: Mapping[str, Tensor], scale: float) -> None:  # noqa: ARG002
        own, given = self.stack("scales")[task], tensors["ia3_l"]
        wanted = (1, len(own)) if self.inside else (len(own), 1)
        if tuple(given.shape) != wanted:
            raise ValueError(f"the file has {tuple(given.shape)}, the network {wanted}")
        own.copy_(given.flatten())
