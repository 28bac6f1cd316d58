"""Tuning: the same number of trials for every strategy, chosen on validation, counted as cost.

``over`` names what is tried: a training setting (``learning_rate``), or a setting of one strategy
by its label and path (``experts.sharing.experts``). Its values are a list, or
``{low: …, high: …}``, drawn evenly on a logarithmic scale. The first trial is always the study as
it stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from plait.comparing.plan import Plan
from plait.comparing.strategy import Strategy
from plait.data.seeding import key
from plait.method import Method, did_you_mean, resolve
from plait.settings import Training

RATES = {"low": 5e-4, "high": 1e-2}


@dataclass(frozen=True, kw_only=True)
class Tune:
    """``trials`` for each strategy over the named settings."""

    trials: int = 1
    over: Mapping[str, Any] = field(default_factory=lambda: {"learning_rate": RATES})

    @classmethod
    def of(cls, given: Mapping[str, Any] | Tune | None) -> Tune:
        """Read the ``tune:`` block; ``ValueError`` for anything it does not have."""
        if isinstance(given, Tune):
            return given
        given = dict(given or {})
        for name in given:
            if name not in ("trials", "over"):
                raise ValueError(
                    f"tune: no setting {name!r}{did_you_mean(name, ['trials', 'over'])}"
                )
        found = cls(**given)
        if not isinstance(found.trials, int) or found.trials < 1:
            raise ValueError(
                f"tune: trials must be a whole number, at least 1; got {found.trials!r}"
            )
        for name, space in found.over.items():
            _check_space(name, space)
        return found

    def check(self, strategies: Mapping[str, Strategy]) -> None:
        """Raise ``ValueError`` for names of settings that neither training nor a strategy has."""
        training = [each.name for each in fields(Training)]
        for name in self.over:
            label, _, path = name.partition(".")
            if not path:
                if name not in training:
                    raise ValueError(
                        f"tune: no training setting {name!r}{did_you_mean(name, training)}"
                    )
            elif label not in strategies:
                raise ValueError(f"tune: no strategy {label!r}{did_you_mean(label, strategies)}")
            else:
                changed(strategies[label], path.split("."), _draw(self.over[name], 0.5))

    def trial(
        self, number: int, label: str, strategy: Strategy, plan: Plan
    ) -> tuple[Strategy, Plan]:
        """A strategy and plan to try; number 0 changes nothing."""
        if number == 0:
            return strategy, plan
        changes = {}
        for name, space in self.over.items():
            whose, _, path = name.partition(".")
            share = key("tune", number, label, name) / 2**63
            if not path and not strategy.baseline:
                changes[name] = _draw(space, share)
            elif path and whose == label:
                strategy = changed(strategy, path.split("."), _draw(space, share))
        return strategy, replace(plan, training=replace(plan.training, **changes))

    def numbers(self, label: str, strategy: Strategy) -> range:
        """The trials of a strategy: one where nothing that is tried concerns it."""
        concerned = any(
            name.startswith(f"{label}.") or ("." not in name and not strategy.baseline)
            for name in self.over
        )
        return range(self.trials if concerned else 1)

    def to_json(self) -> dict[str, Any]:
        """Plain data that :meth:`of` reads back."""
        return {"trials": self.trials, "over": dict(self.over)}


def changed(method: Any, path: Sequence[str], value: Any) -> Any:
    """A method with one setting changed, in itself or in a method among its settings.

    Raises ``ValueError`` with the nearest name for a setting that is not there.
    """
    name, *rest = path
    accepted = type(method).accepted()
    if name not in accepted:
        raise ValueError(
            f"tune: {method.card.key} has no setting {name!r}{did_you_mean(name, accepted)}"
        )
    if rest:
        inner = getattr(method, name)
        if not isinstance(inner, Method):
            inner = resolve(method.parts[name], inner)
        value = changed(inner, rest, value)
    return type(method)(**{**method.settings(), name: value})


def _check_space(name: str, space: Any) -> None:
    match space:
        case {"low": int() | float() as low, "high": int() | float() as high, **rest}:
            if not rest and 0 < low < high:
                return
        case list() | tuple() if space:
            return
    raise ValueError(
        f"tune: the values of {name!r} are a list, or {{low: …, high: …}} with 0 < low < high"
    )


def _draw(space: Any, share: float) -> Any:
    if not isinstance(space, Mapping):
        return space[min(int(share * len(space)), len(space) - 1)]
    low, high = space["low"], space["high"]
    value = math.exp(math.log(low) + share * math.log(high / low))
    return round(value) if isinstance(low, int) and isinstance(high, int) else float(f"{value:.3g}")
