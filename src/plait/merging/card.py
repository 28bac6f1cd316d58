"""The model card of a merge, as Markdown with the hub's front matter."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_HUB = re.compile(r"[\w.-]+/[\w.-]+")
MOST_ROWS = 20


def card(about: Mapping[str, Any], carried: Sequence[Path]) -> str:
    """The card of a merge from what ``merge.json`` says of it."""
    recipe = about["recipe"]
    method = recipe["method"]
    name = method if isinstance(method, str) else next(iter(method))
    parents = [parent["path"] for parent in about["parents"].values()]
    hub = [path for path in parents if _HUB.fullmatch(path) and not Path(path).exists()]
    front = ["---", "tags: [merge, plait]"]
    if hub:
        front += [f"base_model: {json.dumps(hub)}", "base_model_relation: merge"]
    if any(file.name == "config.json" for file in carried):
        front += ["library_name: transformers"]
    kin = about["kinship"]
    rows = [
        f"| {_plain(key)} | {_plain(row['path'])} | {_far(kin['distances'].get(key))} |"
        for key, row in about["parents"].items()
    ]
    likeness = "; ".join(
        f"{_plain(one)} and {_plain(other)}: {cosine:.2f}"
        for one, other, cosine in kin["cosines"][:MOST_ROWS]
    )
    moved = sorted((t for t in about["tensors"] if "change" in t), key=lambda t: -t["change"])
    broken = [t["name"] for t in about["tensors"] if t.get("nonfinite")]
    named = ", ".join(map(_plain, broken[:MOST_ROWS]))
    allowed = f"Warning: NaN or infinite values in {len(broken)} of the merged tensors: {named}."
    needs = " and ".join(about["needs"]) or "nothing else"
    recipe_text = json.dumps(recipe, indent=2, ensure_ascii=True).replace("`", "\\u0060")
    lines = [
        *front, "---", "",
        f"# {len(recipe['models'])} models merged by {_plain(name)}", "",
        f"{_plain(about['summary'])} It needs {needs}.", "",
        "| parent | from | distance |", "|---|---|---:|", *rows, "",
        "A distance is that from the base (or the first parent), as a share of its norm, over a",
        "sample of every tensor.", "",
        *([f"Cosines of the task vectors: {likeness}.", ""] if likeness else []),
        *([allowed, ""] if broken else []),
        *(line for doubt in kin["doubts"] for line in (f"Warning: {_plain(doubt)}.", "")),
        "The recipe, which `plait merge` repeats:", "",
        "```json", recipe_text, "```", "",
        "`merge.json` lists the parents' files and every tensor; `manifest.json` has the SHA-256",
        "of every file, which `plait merge --verify` checks.", "",
        "The tensors that moved most against the base, as a share of their norm:", "",
        "| tensor | type | moved |", "|---|---|---:|",
        *(f"| {_plain(t['name'])} | {_plain(t['type'])} | {t['change']:.2%} |"
          for t in moved[:MOST_ROWS]), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _far(distance: float | None) -> str:
    return "" if distance is None else f"{distance:.2%}"


def _plain(text: object) -> str:
    """Text that cannot leave its cell: no control characters, and marks escaped."""
    plain = "".join(c if c.isprintable() else " " for c in str(text))
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~$-])", r"\\\1", plain)
