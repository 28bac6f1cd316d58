"""Merge recipes: YAML → a :class:`~plait.merging.jobs.Job`, every mistake with its line.

    base: path/to/base
    models: {math: path/to/math, code: path/to/code}
    method: {ties: {keep: 0.2}}

A model may be a recipe itself (``mixed: {models: …, method: …}``), which is merged first. Paths are
relative to the recipe's folder. ``tokenizer: base`` and ``allow_nonfinite: true`` allow
what is refused otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from glob import escape
from pathlib import Path
from typing import Any

from plait.merging.jobs import Job
from plait.method import resolve
from plait.recipes import spelling
from plait.recipes.document import Document, Place, parse, read_document
from plait.recipes.mergekit import MARK, job_of_mergekit

KEYS = ("base", "models", "method", "tokenizer", "allow_nonfinite")


def read_merge(path: Path) -> Job:
    """The job that a recipe says.

    Raises :class:`~plait.recipes.document.RecipeError` with every mistake and its line.
    """
    return job_of(read_document(path), path.parent)


def job_of(document: Document, folder: Path) -> Job:
    """The job that a document says, in plait's words or mergekit's.

    Paths are relative to a folder, those of mergekit's recipes to the one at hand.
    """
    if isinstance(document.value, dict) and MARK in document.value:
        return job_of_mergekit(document)
    found = _settings(document.root, folder)
    names = {name: escape(name) for name in _named(found)}
    if names:
        spelling.hold_to(document, names, "model")
    document.finish()
    return _job(found)


def _named(found: Mapping[str, Any]) -> Iterator[str]:
    """The models of a recipe, and of those in it."""
    for name, one in found.get("models", {}).items():
        yield name
        if isinstance(one, dict):
            yield from _named(one)


def _job(found: Mapping[str, Any]) -> Job:
    """The job of settings without a mistake."""
    models = {
        name: _job(one) if isinstance(one, dict) else one for name, one in found["models"].items()
    }
    return Job(**{**found, "models": models, "method": resolve("merging", found["method"])})


def _settings(place: Place, folder: Path) -> dict[str, Any]:
    """What a recipe, or a recipe in a recipe, says; mistakes are noted."""
    given = place.mapping("a merge recipe", KEYS)
    for key in ("models", "method"):
        if key not in given:
            place.missing(key, f"a merge recipe needs {key}")
    found: dict[str, Any] = {}
    if "base" in given:
        found["base"] = _path(given["base"], folder)
    if "models" in given:
        found["models"] = _models(given["models"], folder)
    if "method" in given:
        spelled = spelling.method(given["method"], "merging")
        if spelled is not None:
            spelling.construct(given["method"], "merging", spelled)
            found["method"] = spelled
    if "tokenizer" in given and given["tokenizer"].value not in ("base", "refuse"):
        given["tokenizer"].wrong("tokenizer is base or refuse")
    if "allow_nonfinite" in given and not isinstance(given["allow_nonfinite"].value, bool):
        given["allow_nonfinite"].wrong("allow_nonfinite is true or false")
    for key in ("tokenizer", "allow_nonfinite"):
        if key in given:
            found[key] = given[key].value
    return found


def parse_method(text: str) -> Any:
    """The method that an option of the command line spells: ``ties`` or ``{ties: {keep: 0.1}}``."""
    document = parse(text, "--method")
    spelled = spelling.method(document.root, "merging")
    if spelled is not None:
        spelling.construct(document.root, "merging", spelled)
    document.finish()
    return resolve("merging", spelled)


def named_paths(paths: list[Path]) -> Mapping[str, Path]:
    """Models by the last part of their path, or by number where two share it."""
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{name}-{number}" for number, name in enumerate(names, 1)]
    return dict(zip(names, paths, strict=True))


def _models(place: Place, folder: Path) -> dict[str, Any]:
    """Paths by name, and the settings of models that are recipes themselves."""
    if isinstance(place.value, list) and place.value:
        found = [_path(place.under(item, i), folder) for i, item in enumerate(place.value)]
        return dict(named_paths([path for path in found if path is not None]))
    if isinstance(place.value, dict) and place.value:
        placed = {
            name: _settings(one, folder) if isinstance(one.value, dict) else _path(one, folder)
            for name, one in place.mapping("models").items()
        }
        return {name: path for name, path in placed.items() if path is not None}
    place.wrong("models are written [path, …] or {name: path or recipe}")
    return {}


def _path(place: Place, folder: Path) -> Path | None:
    text = place.text()
    return None if text is None else folder / text
