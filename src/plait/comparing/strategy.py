"""Strategies: the ways from tasks to one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from plait.comparing.plan import Plan
from plait.method import Method, did_you_mean, resolve

if TYPE_CHECKING:
    from plait.comparing.model import Model

STARTS = ("auto", "pretrained", "warm_up")


class Strategy(Method):
    """One way from tasks to one model.

    ``baseline`` marks plain ones that look at neither the encoder nor the training settings;
    ``seeded`` those whose result depends on the seed. A strategy may require the models of others:
    each is a cell of the study, made once and used wherever it is asked for.
    """

    baseline: ClassVar[bool] = False
    seeded: ClassVar[bool] = True

    def requires(self, plan: Plan) -> Mapping[str, Strategy]:  # noqa: ARG002
        """The strategies whose models :meth:`run` needs, by the names it uses for them."""
        return {}

    def check(self, plan: Plan) -> None:
        """Raise ``ValueError``, before anything is computed, where it cannot work for this plan."""

    def run(self, plan: Plan, parts: Mapping[str, Model], seed: int, folder: Path) -> Model:
        """Make the model. ``folder`` keeps events and checkpoints; a killed run gets it again."""
        raise NotImplementedError

    def words(self) -> str:
        """What it is, for people who do not know the name."""
        return self.card.summary

    def beside(self) -> Mapping[str, Any]:
        """The strategies, as written in a study, that it must be compared with, by short names."""
        return {}

    def seconds(self, plan: Plan) -> float:  # noqa: ARG002
        """About how long :meth:`run` takes, from a few timed steps; 0 where it hardly counts."""
        return 0.0

    def passes(self, plan: Plan) -> int:
        """How many of the plan's passes its training may take."""
        return plan.training.passes

    def random(self, plan: Plan) -> bool:  # noqa: ARG002
        """Whether the result depends on the seed, apart from that of its parts."""
        return self.seeded

    def settled(self, found: Mapping[str, Any]) -> Strategy:  # noqa: ARG002
        """The strategy with what it chose on validation (the model's ``evidence``) given."""
        return self


@dataclass(frozen=True, kw_only=True)
class Started(Strategy):
    """A strategy whose networks go on from one common start, which is a cell of its own.

    ``start`` is ``warm_up``, ``pretrained`` (the encoder as it is), or ``auto``: ``pretrained``
    where nothing above the encoder needs training first. The passes of the start count. A study
    that is given experts starts at their base.
    """

    start: str = "auto"

    def requires(self, plan: Plan) -> Mapping[str, Strategy]:
        """The common start."""
        return {"start": self._start(plan)}

    def check(self, plan: Plan) -> None:
        """The start must exist."""
        if self.start not in STARTS:
            nearest = did_you_mean(self.start, STARTS)
            raise ValueError(f"{self.card.name}: no start {self.start!r}{nearest}")
        if self.start == "pretrained" and not plan.pretrained and plan.experts is None:
            raise ValueError(
                f"{self.card.name}: start: pretrained needs a pretrained encoder; use warm_up"
            )

    def passes(self, plan: Plan) -> int:
        """The passes that the start leaves, at least one."""
        return max(1, plan.training.passes - self._start(plan).passes(plan))

    def _start(self, plan: Plan) -> Strategy:
        start = self.start
        if plan.experts is not None and start != "warm_up":
            start = "pretrained"
        if start == "auto":
            bare = plan.pretrained and _depth(plan.encoder.get("trunk")) == 0
            start = "pretrained" if bare else "warm_up"
        settings = {"share": 0.0} if start == "pretrained" else {}
        found: Strategy = resolve("strategy", {"warm_up": settings})
        return found


def _depth(trunk: Any) -> int | None:
    match trunk:
        case {"mlp": {"depth": int(depth)}}:
            return depth
    return None
