"""What a study adds to what it was given: seeds, the reference, the plain baselines."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from plait.comparing.plan import Plan
from plait.comparing.strategy import Strategy
from plait.method import did_you_mean, resolve, spell

REFERENCE = "separate"


def read_seeds(given: Mapping[str, int] | int | None) -> dict[str, int]:
    """How often weights are drawn and rows are split; a number is ``init``."""
    found = {"init": given} if isinstance(given, int) else dict(given or {})
    for name, count in found.items():
        if name not in ("init", "split"):
            raise ValueError(f"seeds: no {name!r}{did_you_mean(name, ['init', 'split'])}")
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"seeds: {name} must be a whole number, at least 1; got {count!r}")
    return {"init": 3, "split": 1, **found}


def with_baselines(given: Mapping[str, Strategy], plan: Plan) -> dict[str, Strategy]:
    """The strategies with ``separate`` first, what stands beside some, and the plain baselines.

    None is added that is there already. Where the study is given experts, ``separate`` is those.
    """
    from plait.comparing.plain.fitting import poolable

    added: dict[str, Any] = {REFERENCE: REFERENCE, "prior": "prior"}
    plain = ["linear", "forest"]
    if find_spec("lightgbm") is not None:  # importing it would take seconds
        plain.append("boosting")
    pooled = poolable(plan.dataset)
    if any(task.place != "row" for task in plan.dataset.tasks):
        plain = []  # they look at whole rows
    for name in plain:
        added[name] = name
        if pooled:
            added[f"{name}_pooled"] = {name: {"pooled": True}}
    there = [spell(strategy) for strategy in given.values()]
    if REFERENCE in given and given[REFERENCE].card.name != REFERENCE:
        raise ValueError(f"the label {REFERENCE!r} is kept for one network per task")
    reference = given.get(REFERENCE) or resolve("strategy", REFERENCE)
    if plan.experts is not None:  # one network per task is there already
        reference = resolve("strategy", "experts")
    found = {REFERENCE: reference} | {k: v for k, v in given.items() if k != REFERENCE}
    for label, strategy in given.items():
        for name, spelled in strategy.beside().items():
            added[f"{label}_{name}"] = spell(resolve("strategy", spelled))
    for label, spelled in added.items():
        if label not in found and spelled not in there:
            found[label] = resolve("strategy", spelled)
    return found
