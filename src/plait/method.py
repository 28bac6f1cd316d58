"""Methods: small final classes that say what they need, and the names they go by.

A *method* is any registered class with a card. Its configuration is keyword-only and stored
unchanged, so a method can always be written down again as its name, or ``{name: {settings}}``::

    >>> from plait.method import resolve, spell
    >>> spell(resolve("balancing", {"pcgrad": {"reduce": "mean"}}))
    {'pcgrad': {'reduce': 'mean'}}

Listing methods reads a generated index: none of them is imported, and no torch.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from enum import StrEnum
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files
from typing import Any, ClassVar


class Need(StrEnum):
    """What a method requires beyond the tasks themselves; one vocabulary for all families."""

    BASE = "base"
    UNLABELLED = "unlabelled"
    LABELLED = "labelled"
    VALIDATION = "validation"
    FEATURES = "features"
    HEADS = "heads"
    BACKWARD = "backward"
    DOUBLE_BACKWARD = "double_backward"
    SECOND_LOOK = "second_look"
    ROUTER_DATA = "router_data"
    ORDERED = "ordered"
    TASK_ID = "task_id"

    @property
    def words(self) -> str:
        """The need as a user reads it."""
        return _WORDS[self]


_WORDS: dict[Need, str] = {
    Need.BASE: "the common base checkpoint",
    Need.UNLABELLED: "unlabelled inputs per task",
    Need.LABELLED: "labelled rows per task",
    Need.VALIDATION: "labelled validation rows",
    Need.FEATURES: "features of a frozen network",
    Need.HEADS: "one trained head per task",
    Need.BACKWARD: "gradients",
    Need.DOUBLE_BACKWARD: "gradients of gradients",
    Need.SECOND_LOOK: "the losses of the same batch again after the step",
    Need.ROUTER_DATA: "data to train a router",
    Need.ORDERED: "tasks in a given order",
    Need.TASK_ID: "the task of every row when serving",
}


class Law(StrEnum):
    """A property that a method promises; ``plait.testing.check_method`` holds it to it."""

    PERMUTATION = "permuting tasks permutes the result"
    ABSENT = "an absent task changes nothing of its own and nothing for the others"
    SCALE = "scaling all losses by one factor scales the update by it"
    LOSS_SCALE = "scaling one task's loss leaves the weighted update unchanged"
    NON_CONFLICTING = "no task's gradient opposes the update"
    ROWS = "losses are separable over rows, so micro-batches are exact"


@dataclass(frozen=True, kw_only=True)
class Paper:
    """The publication whose method a class is."""

    title: str
    authors: str
    year: int
    venue: str = ""
    url: str = ""

    def bibtex(self, key: str) -> str:
        """A BibTeX entry with the given key."""
        rows = {
            "title": self.title,
            "author": self.authors,
            "year": str(self.year),
            "booktitle": self.venue,
            "url": self.url,
        }
        body = ",\n".join(f"  {name} = {{{value}}}" for name, value in rows.items() if value)
        return f"@inproceedings{{{key},\n{body}\n}}"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of a method before it runs.

    ``exceptions`` maps a contract property to the reason why it is known, and expected, to fail;
    ``deviations`` says where the class differs from its paper or its authors' code.
    """

    family: str
    name: str
    summary: str
    paper: Paper | None = None
    needs: frozenset[Need] = frozenset()
    laws: frozenset[Law] = frozenset()
    deviations: tuple[str, ...] = ()
    exceptions: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """``family.name``, unique in plait."""
        return f"{self.family}.{self.name}"

    def to_json(self) -> dict[str, Any]:
        """The card as plain data, as the index stores it."""
        return {
            "key": self.key,
            "summary": self.summary,
            "paper": asdict(self.paper) if self.paper else None,
            "needs": sorted(self.needs),
            "laws": sorted(law.name for law in self.laws),
            "deviations": list(self.deviations),
            "exceptions": dict(self.exceptions),
        }


class Method:
    """A registered class: a card, keyword-only settings, and one thing it does.

    ``parts`` names the settings that are methods themselves, with the family each belongs to.
    ``inline`` is the one of them, if any, that may be spelled without its setting's name:
    ``{merge: {ties: {}}}`` stands for ``{merge: {method: {ties: {}}}}``. ``names_tasks`` says of
    settings naming tasks (in merging, models) where: ``keys``, ``every`` key, ``values``, ``both``.
    """

    card: ClassVar[Card]
    parts: ClassVar[Mapping[str, str]] = {}
    inline: ClassVar[str | None] = None
    names_tasks: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def accepted(cls) -> dict[str, inspect.Parameter]:
        """The settings the class accepts, by name, in order."""
        parameters = inspect.signature(cls).parameters.values()
        found = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
        made: tuple[Field[Any], ...] = fields(cls) if is_dataclass(cls) else ()
        for own in made:
            if own.name in found and own.default_factory is not MISSING:
                found[own.name] = found[own.name].replace(default=own.default_factory())
        return found

    def settings(self) -> dict[str, Any]:
        """The settings as given, those left at their defaults included."""
        return {name: getattr(self, name) for name in self.accepted()}


class MethodError(ValueError):
    """A name or a setting that no method answers to; ``where`` is the path of keys to it."""

    def __init__(self, message: str, where: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.where = where


@dataclass(frozen=True)
class Entry:
    """One line of the index: enough to list, search, document and load a method.

    ``settings`` maps each setting to its ``type``, the family it belongs to as a ``part`` where it
    is a method itself, where it names ``tasks`` and, unless it must be given, its ``default``.
    """

    key: str
    module: str
    cls: str
    summary: str
    paper: Mapping[str, Any] | None
    needs: tuple[str, ...]
    laws: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()
    exceptions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Entry:
        """Read one row of the index, as :func:`describe` writes it."""
        named = {"cls" if key == "class" else key: value for key, value in row.items()}
        fixed: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in named.items()}
        return cls(**fixed)

    @property
    def family(self) -> str:
        return self.key.partition(".")[0]

    @property
    def name(self) -> str:
        return self.key.partition(".")[2]

    def load(self) -> type[Method]:
        """Import the class."""
        found: type[Method] = getattr(importlib.import_module(self.module), self.cls)
        return found


@cache
def index() -> Mapping[str, Entry]:
    """All known methods by key: plait's own from the generated index, others by entry point."""
    rows = json.loads(files("plait").joinpath("methods.json").read_text("utf-8"))
    rows += [describe(point.load()) for point in entry_points(group="plait.methods")]
    return {row["key"]: Entry.from_row(row) for row in rows}


def describe(cls: type[Method]) -> dict[str, Any]:
    """The row of a class in the index: its card, where it lives and the settings it accepts."""
    settings: dict[str, dict[str, Any]] = {}
    for name, parameter in cls.accepted().items():
        kind = parameter.annotation
        one = settings[name] = {"type": kind if isinstance(kind, str) else repr(kind)}
        if name in cls.parts:
            one["part"] = cls.parts[name]
            one |= {"inline": True} if name == cls.inline else {}
        one |= {"tasks": cls.names_tasks[name]} if name in cls.names_tasks else {}
        if parameter.default is not parameter.empty:
            default = parameter.default
            one["default"] = default.card.name if isinstance(default, Method) else _plain(default)
    row = {"module": cls.__module__, "class": cls.__qualname__, "settings": settings}
    return cls.card.to_json() | row


def methods(family: str | None = None, have: Iterable[str] | None = None) -> list[Entry]:
    """The known methods of a family, or those that can run with what you have.

    ``have`` holds needs by name (``["base", "unlabelled"]``). Raises :class:`MethodError` for a
    family or a need that does not exist.
    """
    entries = sorted(index().values(), key=lambda entry: entry.key)
    if family is not None:
        known = {entry.family for entry in entries}
        if family not in known:
            raise MethodError(f"no family {family!r}{did_you_mean(family, known)}")
        entries = [entry for entry in entries if entry.family == family]
    if have is not None:
        owned = {_need(name) for name in have}
        entries = [entry for entry in entries if set(entry.needs) <= owned]
    return entries


def _need(name: str) -> str:
    plain = name.strip().lower().replace("-", "_")
    if plain not in {need.value for need in Need}:
        raise MethodError(f"no need {name!r}{did_you_mean(plain, [n.value for n in Need])}")
    return plain


def find(family: str, name: str) -> type[Method]:
    """The class of a method by family and name, or by ``package.module:Class``.

    Raises :class:`MethodError` with the nearest valid name where there is none.
    """
    if ":" in name:
        module, _, cls = name.partition(":")
        try:
            found = getattr(importlib.import_module(module), cls)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise MethodError(f"cannot load {name!r}: {error}") from error
        if not (isinstance(found, type) and issubclass(found, Method)):
            raise MethodError(f"{name!r} is not a plait method")
        return found
    entry = index().get(f"{family}.{name}")
    if entry is None:
        known = [entry.name for entry in index().values() if entry.family == family]
        raise MethodError(f"no {family} method {name!r}{did_you_mean(name, known)}")
    return entry.load()


def resolve(family: str, spelled: Any) -> Any:
    """The method that ``name``, ``{name: {settings}}`` or an object stands for.

    Raises :class:`MethodError`, with the path of keys to it, for unknown names and settings.
    """
    if isinstance(spelled, Method):
        return spelled
    name, settings = unspell(family, spelled)
    cls = find(family, name)
    accepted = cls.accepted()
    shorter = cls.inline is not None and cls.inline not in settings
    short = inlined(settings, accepted, cls.parts[str(cls.inline)]) if shorter else None
    built = {}
    for key, value in settings.items():
        path: tuple[str, ...] = (name, key)
        setting = key
        if key == short:
            setting, value, path = str(cls.inline), {key: value}, (name,)
        elif key not in accepted:
            hint = did_you_mean(key, accepted)
            raise MethodError(f"{family} {name!r} has no setting {key!r}{hint}", path)
        part = cls.parts.get(setting)
        try:
            built[setting] = resolve(part, value) if part and value is not None else value
        except MethodError as error:
            raise MethodError(str(error), (*path, *error.where)) from error
    try:
        return cls(**built)
    except (TypeError, ValueError) as error:
        raise MethodError(f"{family} {name!r}: {error}", (name,)) from error


def inlined(given: Iterable[str], accepted: Collection[str], family: str) -> str | None:
    """The one key given beside those accepted, unless it is rather one of them misspelt."""
    others = [key for key in given if key not in accepted]
    if len(others) == 1 and f"{family}.{others[0]}" not in index():  # "star" is no "start"
        others = [] if difflib.get_close_matches(others[0], accepted, n=1, cutoff=0.7) else others
    return others[0] if len(others) == 1 else None


def unspell(family: str, spelled: Any) -> tuple[str, dict[str, Any]]:
    """Split ``name`` or ``{name: {settings}}`` into the name and its settings.

    ``{merge: average}``, a name where settings belong, is short for ``{merge: {average: {}}}``.
    """
    match spelled:
        case str():
            return spelled, {}
        case Mapping() if len(spelled) == 1:
            ((name, settings),) = spelled.items()
            if settings is None:
                return str(name), {}
            if isinstance(settings, str):
                return str(name), {settings: None}
            if isinstance(settings, Mapping):
                return str(name), {str(key): value for key, value in settings.items()}
            raise MethodError(f"the settings of {family} {name!r} must be a mapping", (str(name),))
    raise MethodError(f"a {family} method is its name, or {{name: {{settings}}}}; got {spelled!r}")


def spell(method: Method) -> str | dict[str, Any]:
    """The method as plain data that :func:`resolve` reads back; defaults are left out."""
    cls = type(method)
    name = cls.card.name
    entry = index().get(cls.card.key)
    if entry is None or (entry.module, entry.cls) != (cls.__module__, cls.__qualname__):
        name = f"{cls.__module__}:{cls.__qualname__}"
    accepted = cls.accepted()
    settings = {
        key: _plain(value)
        for key, value in method.settings().items()
        if not _same(value, accepted[key].default)
    }
    if cls.inline in settings:
        inner, inside = unspell(cls.parts[cls.inline], settings[cls.inline])
        if inner not in accepted:
            del settings[cls.inline]
            settings[inner] = inside
    return {name: settings} if settings else name


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, Method):  # a default may be spelled by name: "equal" is Equal()
        return bool(spell(value) == _plain(default))
    return type(value) is type(default) and bool(value == default)


def _plain(value: Any) -> Any:
    if isinstance(value, Method):
        return spell(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest valid names, or all of them when few."""
    names = sorted(set(known))
    near = nearest(word, names)
    listed = f"; valid: {', '.join(names)}" if names else ""
    return listed if near is None else f"; did you mean {near!r}?"


def nearest(word: str, known: Collection[str]) -> str | None:
    """The name that a misspelt word is close to, or that has its letters in another order."""
    near = difflib.get_close_matches(word, known, n=1)
    return next(iter(near or (name for name in known if sorted(name) == sorted(word))), None)


def iterate(method: Method) -> Iterator[Method]:
    """The method and the methods among its settings, depth first."""
    yield method
    for value in method.settings().values():
        if isinstance(value, Method):
            yield from iterate(value)
