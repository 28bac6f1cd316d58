"""Strategies: the ways from tasks to one model."""

from __future__ import annotations

from collections.abc import Mapping
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

    def seconds(self, plan: Plan) -> float:  # noqa: ARG002
        """About how long :meth:`run` takes, from a few timed steps; 0 where it hardly counts."""
        return 0.0

    def settled(self, found: Mapping[str, Any]) -> Strategy:  # noqa: ARG002
        """The strategy with what it chose on validation (the model's ``evidence``) given."""
        return self


def common_start(plan: Plan, start: str, *, freeze: bool | None = None) -> Strategy:
    """The cell that several networks begin from: a warm-up, or the pretrained encoder as it is.

    ``auto`` is the pretrained encoder where nothing above it needs training first, else a warm-up.
    """
    if start == "auto":
        bare = plan.pretrained and _depth(plan.encoder.get("trunk")) == 0
        start = "pretrained" if bare else "warm_up"
    settings: dict[str, Any] = {} if freeze is None else {"freeze": freeze}
    if start == "pretrained":
        settings["share"] = 0.0
    found: Strategy = resolve("strategy", {"warm_up": settings})
    return found


def check_start(plan: Plan, start: str, name: str) -> None:
    """Raise ``ValueError`` for a start that does not exist, or that this plan does not have."""
    if start not in STARTS:
        raise ValueError(f"{name}: no start {start!r}{did_you_mean(start, STARTS)}")
    if start == "pretrained" and not plan.pretrained:
        raise ValueError(f"{name}: start: pretrained needs a pretrained encoder; use warm_up")


def _depth(trunk: Any) -> int | None:
    match trunk:
        case {"mlp": {"depth": int(depth)}}:
            return depth
    return None
