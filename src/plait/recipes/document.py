"""YAML text → plain data that knows its lines; what is broken or hostile is refused with the line.

The text is walked as a stream of events, so size, depth, aliases and the number of nodes are capped
before anything is built, and no tag ever constructs an object.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from plait.comparing.emit import scalar
from plait.method import did_you_mean
from plait.method import nearest as nearest_name
from plait.recipes.asking import Question, answers

_TABLES = {".csv", ".tsv", ".parquet", ".pq", ".npz", ".arrow", ".feather"}
BYTES, DEPTH, NODES, ALIASES = 256 * 1024, 24, 20_000, 200

_TEXT_TAG = "tag:yaml.org,2002:str"
Where = tuple[str | int, ...]  # the keys and list positions that lead to a value


class RecipeError(ValueError):
    """One or more mistakes in a study file, each a line ``file:line: path: what and the fix``."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


@dataclass
class Document:
    """Plain data (dict, list, str, int, float, bool, None) with the line of every value.

    ``mistakes`` collects (line, path, message); :meth:`finish` raises them all together.
    ``questions`` are what only code that loads torch can tell of a value: they are asked together
    at the end, ``apart`` in a process of its own. ``naming`` holds places that name tasks, and how.
    """

    value: Any
    name: str
    lines: dict[Where, int] = field(default_factory=dict)
    mistakes: list[tuple[int, str, str]] = field(default_factory=list)
    questions: list[tuple[Where, Question]] = field(default_factory=list)
    naming: list[tuple[Place, str]] = field(default_factory=list)
    apart: bool = False

    def line(self, where: Where) -> int:
        """The line of a value, or of the nearest thing around it that has one."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)

    def wrong(self, where: Where, message: str, line_of: Where | None = None) -> None:
        """Note a mistake; ``line_of`` says which value's line is shown, where another's."""
        at = self.line(where if line_of is None else line_of)
        self.mistakes.append((at, spell_path(where), message))

    def finish(self) -> None:
        """Raise :class:`RecipeError` with every mistake, in the order of the file."""
        asked, self.questions = self.questions, []
        found = answers([question for _, question in asked], apart=self.apart)
        for (where, _), answer in zip(asked, found, strict=True):
            if answer is not None:
                self.wrong((*where, *answer.where), answer.message)
        if self.mistakes:
            raise RecipeError(
                f"{self.name}:{line}: {f'{path}: ' if path else ''}{message}"
                for line, path, message in sorted(self.mistakes, key=lambda found: found[0])
            )

    @property
    def root(self) -> Place:
        """The whole document as a place."""
        return Place(self, (), self.value)


@dataclass(frozen=True)
class Place:
    """A value in a document, with its path. Reading it notes mistakes and never raises."""

    document: Document
    where: Where
    value: Any

    def wrong(self, message: str, line_of: Place | None = None) -> None:
        """Note a mistake here."""
        self.document.wrong(self.where, message, line_of.where if line_of else None)

    def ask(self, question: Question) -> None:
        """Have something asked of the value when all is read."""
        self.document.questions.append((self.where, question))

    def at(self, key: str) -> Place:
        """The value of a key of this mapping; None where it is not given."""
        return Place(self.document, (*self.where, key), self.value.get(key))

    def under(self, value: Any, *steps: str | int) -> Place:
        """Another value, found further down."""
        return Place(self.document, (*self.where, *steps), value)

    def mapping(
        self,
        what: str,
        accepted: Iterable[str] | None = None,
        words: Mapping[str, str] = MappingProxyType({}),
    ) -> dict[str, Place]:
        """The places of a mapping's keys; of the accepted ones only, noting the others.

        ``words`` are what other tools call some of them.
        """
        if not isinstance(self.value, dict):
            shape = f"{{{', '.join(list(accepted)[:3])}, …}}" if accepted else "{name: …}"
            self.wrong(f"{what} is written {shape}; got {quote(self.value)}")
            return {}
        known = None if accepted is None else list(accepted)
        found = {}
        for key in self.value:
            if known is None or key in known:
                found[key] = self.at(key)
            else:
                self.at(key).wrong(
                    f"{what} has no key {key!r}{nearest(words.get(key, key), known)}"
                )
        return found

    def missing(self, key: str, message: str, place: Place | None = None) -> None:
        """Note, here or at a place, that a key is missing, unless it is there misspelt."""
        given = self.value if isinstance(self.value, dict) else {}
        if given == self.value and nearest_name(key, given) is None:
            (place or self).wrong(message)

    def text(self) -> str | None:
        """A text; a number is taken as its digits."""
        if isinstance(self.value, bool):
            return str(self.value).lower()
        if isinstance(self.value, (str, int, float)) and str(self.value).strip():
            return str(self.value)
        self.wrong(f"must be text; got {quote(self.value)}")
        return None

    def texts(self) -> tuple[str, ...]:
        """A text, or a list of them."""
        if not isinstance(self.value, list):
            one = self.text()
            return () if one is None else (one,)
        if not self.value:
            self.wrong("the list is empty")
        found = [self.under(item, i).text() for i, item in enumerate(self.value)]
        return tuple(text for text in found if text is not None)


def quote(value: Any) -> str:
    """A value as a message shows it: as YAML spells it, cut short."""
    words = {"True": "true", "False": "false", "None": "null"}
    text = repr(value)
    text = words.get(text, text)
    return text if len(text) <= 60 else f"{text[:57]}…"


def spell_path(where: Where) -> str:
    """``("strategies", "a", 0)`` as a reader writes it: ``strategies.a[0]``."""
    text = ""
    for step in where:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def nearest(word: str, known: Iterable[str], also: Iterable[str] = ()) -> str:
    """The end of a message: the nearest valid name, then all accepted names.

    ``also`` holds further names that may be the nearest but are not listed.
    """
    names = list(known)
    hint = did_you_mean(word, names)
    if "did you mean" not in hint and "did you mean" in (other := did_you_mean(word, also)):
        hint = other
    if "did you mean" in hint and len(names) > 1:
        hint += f" (accepted: {', '.join(names)})"
    return hint


def read_document(path: Path) -> Document:
    """The document in a file. Raises :class:`RecipeError` where it is not plain YAML in UTF-8."""
    if path.is_dir():
        raise RecipeError([f"{path}: a study is a YAML file; this is a folder"])
    if not path.exists():
        raise RecipeError([f"{path}: there is no such file{_neighbours(path)}"])
    if path.suffix.lower() in _TABLES:
        raise RecipeError([f"{path}: this is a table; plait init {path} writes a study for it"])
    size = path.stat().st_size
    if size > BYTES:
        raise RecipeError([f"{path}: {size:,} bytes; a study file has at most {BYTES:,}"])
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        bad = data[error.start]
        raise RecipeError(
            [f"{path}:{line}: byte 0x{bad:02x} is not UTF-8; save the file as UTF-8"]
        ) from error
    return parse(text, str(path))


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    found = [other.name for other in path.parent.iterdir() if other.suffix in {".yaml", ".yml"}]
    return did_you_mean(path.name, found) if len(found) <= 20 else ""


def parse(text: str, name: str = "study.yaml") -> Document:
    """The document in a text; ``name`` stands before the line in messages."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if len(text) > BYTES:
        raise RecipeError([f"{name}: {len(text):,} characters; a study has at most {BYTES:,}"])
    document = Document(None, name)
    try:
        _Builder(document).read(YAML(typ="safe", pure=True).parse(text))
    except MarkedYAMLError as error:
        # Where something is missing, the parser finds out late; it began where the context is.
        late = re.search("could not find|end of stream", error.problem or "")
        mark = (late and error.context_mark) or error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise RecipeError([f"{name}:{line}: {_explain(error, text, line)}"]) from error
    except YAMLError as error:
        raise RecipeError([f"{name}:{_line_of_control(text)}: {_first_line(error)}"]) from error
    return document


def _explain(error: Any, text: str, line: int) -> str:
    """What is wrong with a line, from what the parser stumbled over."""
    rows = text.split("\n")
    row = rows[line - 1] if line <= len(rows) else ""
    indent = row[: len(row) - len(row.lstrip())]
    if "\t" in indent:
        return "a tab indents this line; YAML is indented with spaces"
    problem = str(error.problem or error.context or "this is not YAML")
    opened = error.context_mark.line + 1 if error.context_mark else line
    start = f"opened on line {opened}" if opened != line else "opened on this line"
    if "mapping values are not allowed" in problem:
        if (before := _unspaced(rows[: line - 1])) is not None:
            return f"a ':' needs a space after it; line {before} has none"
        return "a ':' too many, or a line indented too far; quote text that contains ': '"
    if "undefined alias" in problem:
        return f"{problem}; text that starts with * must be quoted"
    for words, told in _EXPLAINED:
        if (match := re.search(words, problem)) is not None:
            return told.format(*match.groups(), start=start)
    return f"not valid YAML: {problem}{f' ({start})' if error.context else ''}"


# What the parser says, and what a reader can act on.
_EXPLAINED = tuple({
    r"expected <block end>, but found '([\]}],?|,)'": "a '{0}' too many",
    r"expected <block end>": "not valid YAML: this line belongs to no block; the keys of a block "
    "are indented alike (the block is {start})",
    r"expected ',' or '([\]}])'": "not valid YAML: a ',' or '{0}' is missing before this; the "
    "bracket is {start}",
    r"could not find expected ':'": "a key needs a ':' and a value after it",
    r"unexpected end of stream": "a quote is never closed; it is {start}",
    r"unknown escape character '(.)'": "in double quotes \\{0} is no escape; use single quotes",
    r"character '(.)' that cannot start": "text that starts with {0} must be quoted",
    r"expected alphabetic or numeric": "text that starts with & or * must be quoted",
}.items())  # fmt: skip


def _unspaced(rows: list[str]) -> int | None:
    """The number of the last line that is one ``key:value`` without a space, if it is that."""
    for number in range(len(rows), 0, -1):
        row = rows[number - 1].strip()
        if row and not row.startswith("#"):
            return number if re.fullmatch(r"\w+:[^\s:/]\S*", row) else None
    return None


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0].strip() or "this is not YAML"


def _line_of_control(text: str) -> int:
    """The line of the first character that YAML forbids."""
    for number, row in enumerate(text.split("\n"), 1):
        if any((ord(c) < 32 and c not in "\t\r") or ord(c) == 127 for c in row):
            return number
    return 1


class _Builder:
    """Events → values. Aliases are expanded by value and count toward the cap on nodes."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.nodes = 0
        self.aliases = 0
        self.anchors: dict[str, tuple[Any, int]] = {}

    def read(self, events: Iterator[Any]) -> None:
        from ruamel.yaml import events as ev

        seen = False
        for event in events:
            if isinstance(event, ev.DocumentStartEvent):
                if seen:
                    self.refuse(event, "a second document starts here; a file holds one study")
                seen = True
                self.document.value = self.value(next(events), events, ())
        if not seen or self.document.value is None:
            raise RecipeError(
                [f"{self.document.name}:1: the file is empty; it needs data and tasks"]
            )

    def refuse(self, event: Any, message: str) -> None:
        raise RecipeError([f"{self.document.name}:{event.start_mark.line + 1}: {message}"])

    def value(self, event: Any, events: Iterator[Any], where: Where) -> Any:
        from ruamel.yaml import events as ev

        self.count(event, 1)
        self.document.lines.setdefault(where, event.start_mark.line + 1)
        if len(where) > DEPTH:
            self.refuse(event, f"nested deeper than {DEPTH} levels")
        if isinstance(event, ev.AliasEvent):
            return self.alias(event)
        if event.tag not in {None, _TEXT_TAG}:
            tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")
            self.refuse(event, f"the tag {tag} is not read; write plain values")
        before = self.nodes
        built: Any
        if isinstance(event, ev.ScalarEvent):
            built = scalar(event.value) if event.implicit[0] else event.value
        elif isinstance(event, ev.SequenceStartEvent):
            built = self.sequence(events, where)
        else:
            built = self.mapping(events, where)
        if event.anchor is not None:
            self.anchors[event.anchor] = (built, self.nodes - before + 1)
        return built

    def count(self, event: Any, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > NODES:
            self.refuse(event, f"more than {NODES:,} values (aliases counted as often as used)")

    def alias(self, event: Any) -> Any:
        self.aliases += 1
        if self.aliases > ALIASES:
            self.refuse(event, f"more than {ALIASES} aliases")
        if event.anchor not in self.anchors:
            self.refuse(event, f"no anchor &{event.anchor}; text that starts with * must be quoted")
        built, nodes = self.anchors[event.anchor]
        self.count(event, nodes)
        return built

    def sequence(self, events: Iterator[Any], where: Where) -> list[Any]:
        from ruamel.yaml import events as ev

        found: list[Any] = []
        while not isinstance(event := next(events), ev.SequenceEndEvent):
            found.append(self.value(event, events, (*where, len(found))))
        return found

    def mapping(self, events: Iterator[Any], where: Where) -> dict[str, Any]:
        from ruamel.yaml import events as ev

        found: dict[str, Any] = {}
        while not isinstance(event := next(events), ev.MappingEndEvent):
            self.count(event, 1)
            if isinstance(event, ev.AliasEvent):
                name = str(event.anchor).rstrip(":")
                self.refuse(event, f'a key that starts with * must be quoted: "*{name}"')
            if not isinstance(event, ev.ScalarEvent) or event.anchor is not None:
                self.refuse(event, "a key must be plain text; quote one that starts with & or ?")
            key, line = str(event.value), event.start_mark.line + 1
            inner = (*where, key)
            if key == "<<" and event.implicit[0]:
                self.refuse(event, "merge keys (<<) are not read; write the keys out")
            if key in found:
                first = self.document.lines[inner]
                self.document.mistakes.append(
                    (line, spell_path(inner), f"the key is given twice; first on line {first}")
                )
                self.value(next(events), events, (*where, key, "again"))
                continue
            self.document.lines[inner] = line
            found[key] = self.value(next(events), events, inner)
        return found
