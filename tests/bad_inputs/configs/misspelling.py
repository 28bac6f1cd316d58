"""Every word of a study to which plait gives a meaning, and that study with the word misspelt.

Words are found in the events of the YAML parser, not by plait's own reader: a word is a key or a
plain text with its path, line and place. What the user names (tasks, labels, columns, tables,
roles, paths, titles) is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml import events as ev

from plait.method import index

Path = tuple[str | int, ...]
STRATEGIES = {entry.name for entry in index().values() if entry.family == "strategy"}
# Task and table fields whose texts name columns, tables or classes: only the data can judge them.
DATA_WORDS = {
    "target", "table", "columns", "by", "classes", "positive", "weight", "group", "id", "path",
    "ignore", "inputs", "where", "missing", "source", "pretrained", "title", "intervals",
    "settings",
}  # fmt: skip


@dataclass(frozen=True)
class Word:
    """A key or a text of a study, where it stands."""

    text: str
    path: Path
    line: int
    start: int
    end: int
    key: bool


def words(source: str) -> list[Word]:
    """The words of a study that plait knows."""
    events = YAML(typ="safe", pure=True).parse(source)
    found = []
    for event in events:
        if isinstance(event, ev.DocumentStartEvent):
            found = list(_walk(next(events), events, ()))
    return [word for word in found if _ours(word, {other.path for other in found})]


def _walk(event: Any, events: Iterator[Any], path: Path) -> Iterator[Word]:
    match event:
        case ev.ScalarEvent():
            yield _word(event, path, key=False)
        case ev.SequenceStartEvent():
            place = 0
            while not isinstance(event := next(events), ev.SequenceEndEvent):
                yield from _walk(event, events, (*path, place))
                place += 1
        case ev.MappingStartEvent():
            while not isinstance(event := next(events), ev.MappingEndEvent):
                key = (*path, event.value)
                yield _word(event, key, key=True)
                yield from _walk(next(events), events, key)


def _word(event: Any, path: Path, *, key: bool) -> Word:
    mark = event.start_mark
    return Word(event.value, path, mark.line + 1, mark.index, event.end_mark.index, key)


def _ours(word: Word, paths: set[Path]) -> bool:
    """Whether plait gives the word a meaning; a number, a flag or a name of the user's has none."""
    path = word.path
    if not word.text.isascii() or not word.text.replace("_", "").isalpha():
        return False
    if word.text in {"true", "false", "null"}:
        return False
    if word.key:
        return not _named_by_user(path, paths)
    above = [step for step in path if isinstance(step, str)]
    if path[0] == "data":
        return "types" in above or "names" in above
    if path[0] == "tasks":
        return len(above) == 2 or (len(above) == 3 and above[-1] not in DATA_WORDS)
    if path[0] == "strategies":
        return above[-1] not in DATA_WORDS
    return path[0] in {"encoder", "training"} and not DATA_WORDS & set(above)


def _named_by_user(path: Path, paths: set[Path]) -> bool:
    match path:
        case ("tasks", _) | ("data", "tables", _) | ("data", ("inputs" | "types" | "buckets"), _):
            return True
        case ("data", "tables", _, ("inputs" | "types" | "buckets"), _):
            return True
        case ("data", "split", "names", _) | ("strategies", *_, "categories", _):
            return True
        case ("strategies", str(label)):
            # A label that is a strategy's name, with another strategy under it, is still a label.
            below = {other[2] for other in paths if other[:2] == path and len(other) > 2}
            return label not in STRATEGIES or bool(below & STRATEGIES)
        case ("tasks", _, "missing", *rest):
            return bool(rest)
    return "settings" in path[:-1]


def misspelt(text: str) -> list[str]:
    """A word with one letter dropped, doubled, or changed places with the next, once for each."""
    dropped = [text[:i] + text[i + 1 :] for i in range(len(text))]
    doubled = [text[: i + 1] + text[i:] for i in range(len(text))]
    swapped = [
        text[:i] + text[i + 1] + text[i] + text[i + 2 :] for i in range(len(text) - 1)
    ]  # fmt: skip
    return [
        word for word in dict.fromkeys([*dropped, *doubled, *swapped]) if word not in {text, ""}
    ]
