"""An ensemble in weight space: one member for each task, run at any mixture of their weights.

With members θ_1 … θ_T and a point a [T] on the simplex the network is that of θ(a) = Σ_i a_i θ_i.
Members that learn along the whole simplex span a front: at a vertex stands a network for one task,
between them a trade-off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from plait.batch import Parts, Records
from plait.data.seeding import key
from plait.networks.network import Network, Outputs
from plait.networks.saving import rebuild as made


class Members(Network):
    """Networks of one shape, and the ``point`` [T] at which the mixture of their weights runs.

    Frozen parameters and running statistics are those of the first member.
    """

    point: Tensor

    def __init__(self, members: Sequence[Network]) -> None:
        nn.Module.__init__(self)
        self.tasks = members[0].tasks
        # Found by the task's name in any order of tasks, whatever characters it has.
        self.members = nn.ModuleDict(
            {f"{key('member', n):016x}": m for n, m in zip(self.tasks.names, members, strict=True)}
        )
        self.config = {"kind": "members", "start": members[0].config}
        like = next(members[0].parameters())
        even = torch.full((len(members),), 1 / len(members), dtype=like.dtype, device=like.device)
        self.register_buffer("point", even)

    @property
    def first(self) -> Network:
        """The member whose shape, frozen parameters and buffers are everybody's."""
        found = next(iter(self.members.values()))
        assert isinstance(found, Network)
        return found

    def trained(self) -> list[dict[str, nn.Parameter]]:
        """The trainable parameters of every member by name."""
        return [
            {n: p for n, p in member.named_parameters() if p.requires_grad}
            for member in self.members.values()
        ]

    def mixture(self, point: Tensor) -> dict[str, Tensor]:
        """θ(a), by name, with its graph."""
        every = self.trained()
        return {
            name: torch.tensordot(
                point.to(first), torch.stack([own[name] for own in every]), dims=1
            )
            for name, first in every[0].items()
        }

    def forward(self, parts: Parts, asked: Mapping[str, Records]) -> Outputs:
        """As a network of the mixture at ``point``."""
        found: Outputs = functional_call(self.first, self.mixture(self.point), (parts, asked))
        return found

    @torch.no_grad()
    def at(self, point: Tensor) -> Network:
        """A plain network of the mixture at a point [T] of the simplex."""
        network = deepcopy(self.first)
        values = self.mixture(point)
        for name, parameter in network.named_parameters():
            if name in values:
                parameter.copy_(values[name])
        return network

    def advance(self, step: int) -> None:
        """Training is at this step."""
        for member in self.members.values():
            assert isinstance(member, Network)
            member.advance(step)

    def reach(self) -> dict[str, frozenset[str]]:
        """Parameter name → the tasks whose losses train it."""
        inner = self.first.reach()
        return {f"members.{key_}.{n}": who for key_ in self.members for n, who in inner.items()}

    def last_shared(self) -> list[nn.Parameter]:
        """None: a layer of the mixture is no parameter."""
        return []


@torch.no_grad()
def members_of(network: Network) -> Members:
    """A member for each of the network's tasks, in their order; the network stays as it is.

    What started at random in it starts anew in each member, keyed by the member's task; what came
    from elsewhere (pretrained weights, base rates) is the same in all.
    """
    config = network.config
    starts = dict(made(config).named_parameters()) if "seed" in config else {}
    found: list[Network] = []
    for task in network.tasks.names:
        fixed: dict[int, Any] = {id(p): p for p in network.parameters() if not p.requires_grad}
        fixed |= {id(each): each for each in (network.tasks, *network.tasks)}
        other: Network = deepcopy(network, fixed)
        if starts:
            own = {**config, "seed": key(config["seed"], "member", task) >> 1}
            anew = dict(made(own).named_parameters())
            for name, parameter in other.named_parameters():
                if parameter.requires_grad and torch.equal(starts[name].to(parameter), parameter):
                    parameter.copy_(anew[name])
        found.append(other)
    return Members(found)


def rebuild(config: Mapping[str, Any]) -> Members:
    """Members of the same shape as those whose ``config`` this is."""
    return members_of(made(config["start"]))
