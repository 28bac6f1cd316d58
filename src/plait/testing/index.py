"""The index of methods, generated: ``python -m plait.testing.index [--check]``.

Every method file is imported once, here, so that listing methods never has to. What a card must say
is enforced at the same time; ``--check`` writes nothing and fails when the index is stale. The
encoders of a study and their settings are kept likewise, so that reading a study loads no torch.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import plait
from plait.method import Card, Entry, Method, describe

ROOMS = (
    "balancing",
    "sharing",
    "adapting",
    "merging",
    "grouping",
    "compressing",
    "tabular",
    "flows",
    "training.procedures",
    "comparing.strategies",
)
PATH = Path(plait.__file__).with_name("methods.json")
ENCODERS = Path(plait.__file__).with_name("encoders.json")

# Methods that no paper introduced: plain baselines and the ways everybody knows.
PLAIN = frozenset(
    {
        "adapting.full",
        "adapting.head_only",
        "balancing.equal",
        "balancing.clip",
        "balancing.ema",
        "balancing.every",
        "balancing.per_layer",
        "procedure.plain",
        "merging.average",
        "merging.arcee_fusion",
        "merging.by_tensor",
        "merging.karcher",
        "merging.mergekit",
        "merging.multislerp",
        "merging.nearswap",
        "merging.nuslerp",
        "merging.slerp",
        "strategy.separate",
        "strategy.joint",
        "strategy.adapt",
        "strategy.equal_lora",
        "strategy.experts",
        "strategy.warm_up",
        "strategy.merge",
        "strategy.prior",
        "strategy.linear",
        "strategy.forest",
        "strategy.boosting",
    }
)


def method_modules() -> Iterator[ModuleType]:
    """The method files of every room: not ``base.py``, not private, not packages."""
    for room in ROOMS:
        try:
            package = importlib.import_module(f"plait.{room}")
        except ModuleNotFoundError as error:
            if error.name and f"plait.{room}".startswith(error.name):
                continue  # a room that is not built yet
            raise
        for found in pkgutil.iter_modules(package.__path__):
            if not (found.ispkg or found.name == "base" or found.name.startswith("_")):
                yield importlib.import_module(f"plait.{room}.{found.name}")


def own_methods(module: ModuleType) -> list[type[Method]]:
    """The method classes with a card of their own that a module defines."""
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
        and isinstance(vars(value).get("card"), Card)
    ]


def collect() -> list[type[Method]]:
    """Every method class of plait, by key. Raises ``ValueError`` naming every broken rule."""
    found: dict[str, type[Method]] = {}
    wrong: list[str] = []
    for module in method_modules():
        for cls in own_methods(module):
            wrong += broken_rules(cls, module)
            if cls.card.key in found:
                wrong.append(f"{module.__name__}: {cls.card.key} is taken")
            found[cls.card.key] = cls
    if wrong:
        raise ValueError("\n".join(wrong))
    return [found[key] for key in sorted(found)]


def broken_rules(cls: type[Method], module: ModuleType) -> list[str]:
    """What a method file gets wrong, as sentences."""
    card, where = cls.card, f"{module.__name__}.{cls.__name__}"
    stem = module.__name__.rpartition(".")[2]
    wrong = []
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", card.name):
        wrong.append(f"{where}: the name {card.name!r} is not snake_case")
    if card.name != stem:
        wrong.append(f"{where}: {card.key} must live in a file {card.name}.py, not {stem}.py")
    if card.paper is None and card.key not in PLAIN:
        wrong.append(f"{where}: the card has no paper and {card.key} is not a known plain baseline")
    if not (module.__doc__ or "").strip():
        wrong.append(f"{where}: the module has no docstring")
    if len(own_methods(module)) > 1:
        wrong.append(f"{where}: one method a file")
    return wrong


def rows() -> list[dict[str, Any]]:
    """The index, sorted by key."""
    return [describe(cls) for cls in collect()]


def text() -> str:
    """The index as it is stored: stable, one key a line."""
    return json.dumps(rows(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def encoders() -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Type of input, or ``trunk`` → name → setting → its type and default; the default first."""
    from plait.networks.encoder import STEMS, TRUNKS

    return {
        part: {name: _keywords(made) for name, made in known.items()}
        for part, known in {**STEMS, "trunk": TRUNKS}.items()
    }


def _keywords(made: Any) -> dict[str, dict[str, Any]]:
    return {
        name: {"type": one.annotation}
        | ({} if one.default is one.empty else {"default": one.default})
        for name, one in inspect.signature(made).parameters.items()
        if one.kind is one.KEYWORD_ONLY
    }


def encoders_text() -> str:
    """The encoders as they are stored."""
    return json.dumps(encoders(), indent=1, ensure_ascii=False) + "\n"


def entries() -> list[Entry]:
    """The index as plait reads it, from the classes and not from the file."""
    return [Entry.from_row(row) for row in rows()]


def stale() -> str:
    """Why the stored index differs from the classes; empty when it does not."""
    stored = {row["key"]: row for row in json.loads(PATH.read_text("utf-8"))}
    fresh = {row["key"]: row for row in rows()}
    wrong = [f"missing: {key}" for key in sorted(fresh.keys() - stored.keys())]
    wrong += [f"gone: {key}" for key in sorted(stored.keys() - fresh.keys())]
    wrong += [
        f"changed: {key}"
        for key in sorted(fresh.keys() & stored.keys())
        if json.dumps(fresh[key], sort_keys=True) != json.dumps(stored[key], sort_keys=True)
    ]
    if not wrong and PATH.read_text("utf-8") != text():
        wrong = ["formatted differently"]
    if ENCODERS.read_text("utf-8") != encoders_text():
        wrong.append("encoders")
    return "; ".join(wrong)


def main(arguments: list[str]) -> int:
    """Write the index, or with ``--check`` say whether it is stale; the exit status."""
    if "--check" in arguments:
        reason = stale()
        if reason:
            sys.stderr.write(f"methods.json is stale ({reason}); run python -m {_NAME}\n")
        return int(bool(reason))
    PATH.write_text(text(), encoding="utf-8")
    ENCODERS.write_text(encoders_text(), encoding="utf-8")
    sys.stdout.write(f"{len(rows())} methods written to {PATH.name}\n")
    return 0


_NAME = "plait.testing.index"

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
