"""The README of a model's folder: what it is, how good, why it was chosen, and from what."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import plait
from plait.comparing import escaping
from plait.comparing.model import Model
from plait.data.preparation import Preparation

if TYPE_CHECKING:
    from plait.comparing.results import Interval
    from plait.comparing.study import Study

MOST = 200  # rows of a table
LONGEST = 200  # characters of a name
SENTENCE = 2000  # characters of a fact


def told(study: Study, label: str) -> dict[str, Any]:
    """What a study found about a strategy, as plain data that goes with its model."""
    results = study.results
    row = next((each for each in results.standings if each.strategy == label), None)
    scores = [each for each in results.scores if each.strategy == label]
    return {
        "chosen": bool(row and row.chosen),
        "answer": {
            "headline": results.answer.headline, "use": results.answer.use,
            "reasons": list(results.answer.reasons),
        },
        "gain": _plain(row.gain) if row else None,
        "seeds": row.seeds if row else 0,
        "scores": [
            {
                "task": each.task, "reason": each.reason, "gain": _plain(each.gain),
                "metrics": {name: _plain(found) for name, found in each.metrics.items()},
            }
            for each in scores
        ],
        "rows_of_tasks": list(results.tasks),
        "facts": list(results.facts),
        "warnings": list(results.warnings),
        "notes": list(results.notes),
        "recipe": results.recipe,
    }  # fmt: skip


def _plain(found: Interval) -> list[float | None]:
    return [found.value, found.low, found.high]


def card(
    model: Model, preparation: Preparation, about: Mapping[str, Any], hashes: Mapping[str, str]
) -> str:
    """The README, front matter first; every name in it may be hostile and is shown as text.

    ``hashes`` are the SHA-256 of the folder's other files.
    """
    study = about.get("study") or {}
    pieces = [
        _front(),
        f"# {line(about.get('title') or 'A model made by plait')}",
        f"{line(about.get('words', model.sort))}; {model.cost().parameters or 0:,.0f} parameters.",
        _adapters(model.evidence.get("adapters")),
        _use(preparation),
        _tasks(model),
        *_found(study, about),
        *_data(study, about),
        *_recipe(study, about),
        "## Files",
        "\n".join(["| file | SHA-256 |", "|---|---|", *_hashes(hashes)]),
        f"Made by plait {plait.__version__}; `manifest.json` holds these hashes for loading.",
    ]
    return "\n\n".join(piece for piece in pieces if piece) + "\n"


def _adapters(told: Mapping[str, Any] | None) -> str:
    """What a task adds to the frozen network."""
    if not told:
        return ""
    stored = sorted(told["stored"].values())
    each = f"{stored[0]:,}" + (f" to {stored[-1]:,}" if stored[-1] > stored[0] else "")
    return (
        f"Adapters: {told['trained']:,} parameters were trained, {told['common']:,} of them for "
        f"all tasks together; a task stores {each} of its own, beside its head."
    )


def _front() -> str:
    """For the hub; nothing from data stands here."""
    tags = ["plait", "multi-task-learning"]
    rows = ["library_name: plait", f"tags: {json.dumps(tags)}", "license: unknown"]
    return "\n".join(["---", *rows, "---"])


def _use(preparation: Preparation) -> str:
    roles = [names for table in preparation.roles.values() for names in table.values()]
    columns = sorted({column for names in roles for column in names})
    shown = ", ".join(line(column) for column in columns[:MOST])
    more = f", and {len(columns) - MOST} more" if len(columns) > MOST else ""
    return (
        "```python\nimport plait\n\n"
        'plait.load("this folder").predict(table)  # polars, pandas, Arrow, a path\n```\n\n'
        f"Columns read: {shown}{more}."
    )


def _tasks(model: Model) -> str:
    rows = [
        f"| {line(task.name)} | {task.kind} | {', '.join(line(c) for c in task.classes[:20])} |"
        for task in model.tasks
    ]
    return "\n".join(["| task | kind | classes |", "|---|---|---|", *_cut(rows, 3)])


def _found(study: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[str]:
    """What was measured, and why this strategy."""
    if not study:
        return
    label, answer = line(about.get("label", "")), study["answer"]
    yield "## Why this model"
    who = "the study chose it" if study["chosen"] else "it was asked for by name"
    reasons = [answer["headline"], answer["use"], *answer["reasons"]]
    answered = " ".join(line(each, SENTENCE) for each in reasons if each)
    yield f"Strategy {label}: {who}. The study's answer: {answered}"
    yield "## How good it is"
    trained = (
        "This model was then trained on all labelled rows, so that no row is left to measure it on."
        if about.get("rows")
        else "It is the model of the seed with the lowest validation loss."
    )
    yield (
        f"On the study's test rows, means over {_seeds(study['seeds'])}, with 95 % intervals from "
        f"a paired bootstrap; gain is over one network per task. {trained}"
    )
    if study["gain"] and study["gain"][0] is not None:
        yield f"Gain (Δm): {_interval(study['gain'])} %."
    rows = [
        f"| {line(score['task'])} | {line(name)} | {_interval(found)} |"
        f" {'' if place else _interval(score['gain'])} |"
        for score in study["scores"]
        for place, (name, found) in enumerate(score["metrics"].items())
    ]
    yield "\n".join(["| task | metric | value | gain % |", "|---|---|---|---|", *_cut(rows, 4)])


def _seeds(count: int) -> str:
    return f"{count} seed" if count == 1 else f"{count} seeds"


def _data(study: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[str]:
    yield "## Data"
    yield (
        "The licence of the data is unknown to plait, and so what the model may be used for: see "
        "where the data come from."
    )
    if about.get("data"):
        yield f"Hash of the data: `{line(about['data'])}`."
    facts = [*study.get("facts", ()), *study.get("warnings", ()), *study.get("notes", ())]
    yield "\n".join(_cut([f"- {line(fact, SENTENCE)}" for fact in facts], 0))


def _recipe(study: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[str]:
    text = study.get("recipe") or json.dumps(about.get("strategy", {}), indent=2)
    plain = "\n".join(_printable(row) for row in str(text).splitlines())
    # The fence is longer than any in the text, so that the text cannot close it.
    fence = "`" * max(3, 1 + max((len(run) for run in _runs(plain)), default=0))
    yield "## Recipe"
    yield f"{fence}yaml\n{plain}\n{fence}"


def _runs(text: str) -> list[str]:
    """The runs of backticks in a text."""
    return "".join(c if c == "`" else " " for c in text).split()


def _hashes(hashes: Mapping[str, str]) -> list[str]:
    return _cut([f"| {line(name)} | `{digest}` |" for name, digest in hashes.items()], 2)


def _cut(rows: Sequence[str], cells: int) -> list[str]:
    """At most so many rows, then how many more there are."""
    if len(rows) <= MOST:
        return list(rows)
    more = f"and {len(rows) - MOST:,} more"
    return [*rows[:MOST], f"| {more} {'| ' * (cells - 1)}|" if cells else f"- {more}"]


def _interval(found: Sequence[float | None]) -> str:
    value, low, high = found
    if value is None:
        return "undefined"
    return f"{value:.4g}" if low is None or high is None else f"{value:.4g} [{low:.4g}, {high:.4g}]"


def line(text: object, longest: int = LONGEST) -> str:
    """Names come from data and may be hostile: one line, no markup, no control, no link."""
    plain = str(text)
    short = plain if len(plain) <= longest else plain[: longest - 1] + "…"
    return escaping.paragraph(_printable(short))


def _printable(text: str) -> str:
    """Without controls, marks that reorder what is read, and halves of pairs."""
    hidden = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return "".join(" " if unicodedata.category(c) in hidden else c for c in text)
