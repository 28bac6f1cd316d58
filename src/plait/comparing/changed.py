"""Networks to which a merge has added modules, saved and loaded like any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from plait.batch import Parts, Records
from plait.merging.results import Change
from plait.merging.route import Chooser, Route
from plait.method import resolve, spell
from plait.networks import Network
from plait.networks.base import Encoder, Features, Trunk
from plait.networks.saving import rebuild as rebuild_start
from plait.networks.stems import Stem


class RepairedTrunk(Trunk):
    """A trunk, and a module after it that knows the task of every record."""

    def __init__(self, start: Trunk, after: nn.Module) -> None:
        super().__init__(start.tasks, start.width)
        self.start = start
        self.after = after
        self.chain = start.chain

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        found, penalties = self.start(parts, asked)
        repaired = {
            group: Features(self.after(found[group].records, self.positions(group, records)))
            for group, records in asked.items()
        }
        return repaired, penalties

    def advance(self, step: int) -> None:
        """Training is at this step."""
        self.start.advance(step)


class RoutedTrunk(Trunk):
    """A trunk that runs twice: what its encoder makes of a row says how the row runs again."""

    def __init__(self, start: Trunk, around: Chooser) -> None:
        super().__init__(start.tasks, start.width)
        for task in start.tasks:
            if task.place != "row":
                raise ValueError(
                    f"whole rows are routed, and task {task.name!r} labels positions in them; "
                    "leave it out, or merge by wemoe, which routes inside"
                )
        self.start = start
        self.around = around
        self.chain = start.chain
        for module in start.modules():
            if isinstance(module, Encoder | Stem):
                module.among = around.among

    def forward(
        self, parts: Parts, asked: Mapping[str, Records]
    ) -> tuple[dict[str, Features], dict[str, Tensor]]:
        (encoder,) = (one for one in self.start.children() if isinstance(one, Encoder))
        with self.around.given(encoder(parts)):
            found: tuple[dict[str, Features], dict[str, Tensor]] = self.start(parts, asked)
        return found

    def advance(self, step: int) -> None:
        """Training is at this step."""
        self.start.advance(step)


def changed(network: Network, method: Route, models: list[str], change: Change) -> Network:
    """The network that a merge by ``method`` has changed, and after it what is to stand there."""
    config = {
        "kind": "changed",
        "start": network.config,
        "method": spell(method),
        "models": models,
    }
    return _standing(network, config, change)


def rebuild(config: Mapping[str, Any]) -> Network:
    """A network of the same shape as the one whose ``config`` this is."""
    network = rebuild_start(config["start"])
    method: Route = resolve("merging", config["method"])
    change = method.lay(network.trunk, network.trunk.width, config["models"])
    return _standing(network, config, change)


def _standing(network: Network, config: Mapping[str, Any], change: Change) -> Network:
    trunk = network.trunk
    if change.around is not None:
        trunk = RoutedTrunk(trunk, change.around)
    if change.after is not None:
        trunk = RepairedTrunk(trunk, change.after)
    return Network(trunk, network.heads, config).train(network.training)
