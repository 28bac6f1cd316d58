"""mergekit's YAML → a :class:`~plait.merging.jobs.Job`, read as mergekit reads it.

    merge_method: ties
    base_model: path/to/base
    models:
      - {model: path/to/math, parameters: {weight: 0.7, density: [0.2, 0.6]}}
      - {model: path/to/code, parameters: {weight: 0.3, density: 0.5}}

A model's setting comes before one for all; lists run over the blocks of the model; of filters the
first that is part of a tensor's name counts. Paths are relative to the folder at hand. Where the
result differs from mergekit's, the job's ``notes`` say it; what plait does not do is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plait.merging.average import Average
from plait.merging.base import Merger
from plait.merging.jobs import Job
from plait.merging.mergekit import BY_MODEL, DEFAULTS, Mergekit
from plait.merging.slerp import Slerp
from plait.merging.stacking import DEPTHS
from plait.recipes.document import Document, Place, nearest, quote
from plait.weights.files import DamagedError, read_json

MARK = "merge_method"
KEYS = (
    MARK,
    "base_model",
    "models",
    "slices",
    "parameters",
    "tokenizer_source",
    "dtype",
    "out_dtype",
)
REFUSED: Mapping[str, str] = {
    "modules": "models of several modules are not read; name whole models",
    "tokenizer": "tokenizers are not merged; tokenizer_source: base takes the base's",
    "chat_template": "chat templates are carried over, not written; change the merged folder's",
}
OWN: Mapping[str, str] = {"gamma": "breadcrumbs", "epsilon": "della"}  # of these methods alone
SLERP = "slerp"
OF_ARC = ("t",)
OF_ALL = ("normalize", "rescale", "lambda", "int8_mask")


def job_of_mergekit(document: Document) -> Job:
    """The job that a recipe of mergekit says.

    Raises :class:`~plait.recipes.document.RecipeError` with every mistake and its line.
    """
    given = document.root.mapping("a mergekit recipe", (*KEYS, *REFUSED))
    for key, words in REFUSED.items():
        if key in given:
            given[key].wrong(words)
    method = _method(given[MARK], given.get("slices"))
    if "models" not in given and not {"slices", "modules"} & set(given):
        document.root.missing("models", "a mergekit recipe needs models")
    of_model = tuple(s for s in BY_MODEL if method.startswith(OWN.get(s, "")))
    accepted = OF_ARC if method == SLERP else (*of_model, *OF_ALL)
    shared = _parameters(given["parameters"], accepted) if "parameters" in given else {}
    base = given["base_model"].text() if "base_model" in given else None
    models = _models(given["models"], of_model) if "models" in given else {}
    if "slices" in given:
        models |= _sliced(given["slices"])
    _bases(document.root, method, base, models)
    if method == SLERP:
        return _arc(document, given, base or "", models, shared)
    if method != "linear" and base is not None:
        models.pop(base, None)
    names = _names(list(models))
    found = {
        setting: {names[path]: one for path, own in models.items()
                  if (one := _joined(own.get(setting), shared.get(setting))) is not None}
        for setting in of_model
    }  # fmt: skip
    for path in models:
        if names[path] not in found["weight"]:
            given["models"].wrong(f"{path}: no weight, and mergekit has no default for it")
    source = given.get("tokenizer_source")
    if source is not None and source.value != "base":
        source.wrong("tokenizer_source is base: vocabularies are not united")
    document.finish()
    made = _made(method, found, shared)
    origin = (
        base if method != "linear" else None if isinstance(made, Average) else next(iter(models))
    )
    return Job(
        models={names[path]: Path(path) for path in models},
        base=None if origin is None else Path(origin),
        method=made,
        tokenizer="refuse" if source is None else "base",
        notes=tuple(_notes(method, given, made)),
    )


def _method(place: Place, slices: Place | None) -> str:
    text = str(place.value)
    known = (*DEFAULTS, SLERP)
    if text == "passthrough":
        words = " ".join(_ranges(slices.value)) if slices is not None else "MODEL:START:STOP …"
        place.wrong(f"layers are stacked by a command of its own: plait stack {words} -o OUT")
    elif text not in known:
        place.wrong(f"the method {text!r} of mergekit is not read{nearest(text, known)}")
    return text


def _ranges(slices: Any) -> Iterator[str]:
    """Slices as ``plait stack`` has them."""
    for one in slices if isinstance(slices, list) else ():
        match one:
            case {"sources": [{"model": model, "layer_range": [start, stop]}, *_]}:
                yield f"{model}:{start}:{stop}"


def _sliced(place: Place) -> dict[str, dict[str, Any]]:
    """The models of one slice that is all of them."""
    match place.value:
        case [{"sources": [*sources]}]:
            found = {}
            for source in sources:
                match source:
                    case {"model": str(path), "layer_range": [0, int(stop)], **rest} if (
                        not rest and _depth(Path(path)) in (stop, None)
                    ):
                        found[path] = dict[str, Any]()
            if len(found) == len(sources):
                return found
    place.wrong(
        "slices are read where one names whole models, as {sources: [{model: path, layer_range: "
        "[0, all]}, …]}; parts of models are put together by plait stack"
    )
    return {}


def _depth(model: Path) -> int | None:
    """The number of a model's blocks, as its configuration tells it."""
    try:
        told = read_json(model / "config.json")
    except (OSError, DamagedError):
        return None
    found = next((told[key] for key in DEPTHS if key in told), None)
    return found if isinstance(found, int) else None


def _arc(
    document: Document, given: Mapping[str, Place], base: str, models: Mapping[str, Any],
    shared: Mapping[str, Any],
) -> Job:  # fmt: skip
    """SLERP from the base to the other model."""
    others = [path for path in models if path != base]
    if models and len(others) != 1:
        document.root.at("models" if "models" in given else "slices").wrong(
            "slerp goes from base_model to one other model"
        )
    if "t" not in shared:
        document.root.missing("parameters", "slerp needs t: parameters: {t: 0.5}")
    source = given.get("tokenizer_source")
    if source is not None and source.value != "base":
        source.wrong("tokenizer_source is base: vocabularies are not united")
    document.finish()
    names = _names([base, *others])
    kept = [f"unlike mergekit: {key} is not followed: tensors keep the type they are stored in"
            for key in ("dtype", "out_dtype") if key in given]  # fmt: skip
    return Job(
        models={names[path]: Path(path) for path in names},
        method=Slerp(t=shared["t"]),
        tokenizer="refuse" if source is None else "base",
        notes=tuple(kept),
    )


def _bases(root: Place, method: str, base: str | None, models: Mapping[str, Any]) -> None:
    """Where the base stands, or has to."""
    if method != "linear" and base is None:
        root.wrong(f"{method} needs base_model, the model that the others were made from")
    if method == "linear" and base is not None and base not in models:
        root.at("base_model").wrong("linear uses a base_model only where it is among the models")
    if models and not set(models) - ({base} if method != "linear" else set()):
        root.at("models").wrong("there is no model beside the base")


def _models(place: Place, accepted: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The settings of every model by its path, each with the settings' values."""
    if not isinstance(place.value, list) or not place.value:
        place.wrong("models are a list of {model: path, parameters: {…}}")
        return {}
    found: dict[str, dict[str, Any]] = {}
    for number, item in enumerate(place.value):
        one = place.under(item, number)
        given = one.mapping("a model", ("model", "parameters"))
        if "model" not in given:
            one.missing("model", "a model needs its path: {model: path}")
            continue
        path = given["model"].text()
        if path is None:
            continue
        if "+" in path:
            given["model"].wrong("an adapter is named by its own folder, without 'base+'")
        if path in found:
            given["model"].wrong(f"{path} is named twice")
        own = given.get("parameters")
        found[path] = {} if own is None else _parameters(own, accepted)
    return found


def _parameters(place: Place, accepted: tuple[str, ...]) -> dict[str, Any]:
    """Settings, each checked."""
    found = {}
    for key, one in place.mapping("parameters", accepted).items():
        if key in ("normalize", "rescale", "int8_mask"):
            if one.value not in (True, False):
                one.wrong(f"{key} is true or false here; got {quote(one.value)}")
        else:
            _setting(one)
        found[key] = one.value
    return found


def _setting(place: Place) -> None:
    """Note what is neither a number, nor a list of numbers, nor one of filters and values."""
    value = place.value
    if _number(value) or (isinstance(value, list) and value and all(map(_number, value))):
        return
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        place.wrong(f"a number, a list of them, or a list of {{filter, value}}; got {quote(value)}")
        return
    for number, item in enumerate(value):
        rule = place.under(item, number)
        given = rule.mapping("a rule", ("filter", "value"))
        if "value" not in given:
            rule.missing("value", "a rule needs a value")
        elif not _number(given["value"].value) and not (
            isinstance(given["value"].value, list) and all(map(_number, given["value"].value))
        ):
            given["value"].wrong("the value of a rule is a number or a list of them")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _joined(own: Any, shared: Any) -> Any:
    """A model's setting, and behind it the one for all where no filter of the first fits."""
    rules = [rule for one in (own, shared) if one is not None for rule in _rules(one)]
    if not rules:
        return None
    plain = rules[0].get("filter") in (None, "*")
    return rules[0]["value"] if plain else rules


def _rules(setting: Any) -> list[dict[str, Any]]:
    if isinstance(setting, list) and isinstance(setting[0], dict):
        return setting
    return [{"value": setting}]


def _names(paths: list[str]) -> dict[str, str]:
    """Models by the last part of their path, or by number where two share it."""
    names = [Path(path).name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{name}-{number}" for number, name in enumerate(names, 1)]
    return dict(zip(paths, names, strict=True))


def _made(method: str, found: Mapping[str, Mapping[str, Any]], shared: Mapping[str, Any]) -> Merger:
    weights = found["weight"]
    plain = all(_number(value) and value >= 0 for value in weights.values())
    if method == "linear" and plain and sum(weights.values()) > 0 and shared.get("normalize", True):
        return Average(weights=weights)
    settings = {"method": method, "weight": weights, "scale": _ended(shared.get("lambda", 1.0))}
    settings |= {key: bool(shared[key]) for key in ("normalize", "rescale") if key in shared}
    of_models = found if method not in ("linear", "task_arithmetic") else {}
    for setting in (one for one in BY_MODEL[1:] if one in of_models):
        default = getattr(Mergekit, setting)
        settings[setting] = {
            name: _ended(found[setting].get(name, default), default) for name in weights
        }
    return Mergekit(**settings)


def _ended(setting: Any, default: float = 1.0) -> Any:
    """A setting that is at its default where all filters miss."""
    if isinstance(setting, list) and isinstance(setting[0], dict):
        return [*setting, {"value": default}]
    return setting


def _notes(method: str, given: Mapping[str, Place], made: Merger) -> list[str]:
    """How the result will differ from mergekit's."""
    single, equal, rows, masks = Mergekit.card.deviations
    notes = [f"{key} is not followed: tensors keep the type they are stored in"
             for key in ("dtype", "out_dtype") if key in given]  # fmt: skip
    notes.append(single)
    if method == "ties" or method.startswith("breadcrumbs"):
        notes.append(equal)
    if method.startswith(("dare", "della")):
        notes.append(masks)
    if method.startswith("della"):
        notes.append(rows)
    if isinstance(made, Mergekit) and "tokenizer_source" not in given:
        notes.append("tokenizers that differ are refused, where mergekit takes the base's")
    return [f"unlike mergekit: {note}" for note in notes]
