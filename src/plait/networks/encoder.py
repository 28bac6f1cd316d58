"""The encoder of a study: one stem for each input type, side by side, then one trunk.

Described by plain data, as under ``encoder:`` in a study::

    {}                                                  every type by its default
    {text: {bag: {width: 128}}, trunk: {mlp: {width: 256, depth: 2}}}
    {module: "package.module:Class", settings: {...}}   a module of yours, given the parts
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from plait.batch import Input, Part, Parts
from plait.kinds import Place
from plait.method import MethodError, did_you_mean
from plait.networks.base import Encoder
from plait.networks.maps import Pyramid, Vit
from plait.networks.positions import place
from plait.networks.sequences import Attention
from plait.networks.stems import Bag, Cnn, Embedding, Foreign, Plain, Stem, blank_width, load_module
from plait.networks.transformer import Transformer
from plait.task import TaskSet


class Mlp(nn.Module):
    """``depth`` times linear, norm, ReLU and dropout; ``norm`` is ``none`` or ``layer``."""

    def __init__(
        self,
        inside: int,
        *,
        width: int = 256,
        depth: int = 2,
        dropout: float = 0.0,
        norm: str = "none",
    ) -> None:
        super().__init__()
        if norm not in ("none", "layer"):
            raise MethodError(f"no norm {norm!r}{did_you_mean(norm, ('none', 'layer'))}", ("norm",))
        self.settings = {"width": width, "depth": depth, "dropout": dropout, "norm": norm}
        self.width = width if depth else inside
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers.append(nn.Linear(inside, width))
            if norm == "layer":
                layers.append(nn.LayerNorm(width))
            layers.append(nn.ReLU())
            if dropout:
                layers.append(nn.Dropout(dropout))
            inside = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inside] → [B, width]."""
        found: Tensor = self.layers(x)
        return found


# The stems of each input type, the default first.
STEMS: Mapping[str, Mapping[str, type[Stem]]] = {
    "numeric": {"plain": Plain},
    "categorical": {"embedding": Embedding},
    "hashed": {"embedding": Embedding},
    "text": {"bag": Bag, "transformer": Transformer},
    "image": {"cnn": Cnn, "pyramid": Pyramid, "vit": Vit},
    "vector": {"plain": Plain},
    "list": {"bag": Bag},
    "sequence": {"attention": Attention},
}
TRUNKS: Mapping[str, Callable[..., Mlp]] = {"mlp": Mlp}


class StemEncoder(Encoder):
    """Stems side by side, then the trunk."""

    like: Tensor

    def __init__(self, stems: Mapping[str, Stem], trunk: Callable[[int], Mlp]) -> None:
        super().__init__()
        self.stems = nn.ModuleDict(dict(stems))
        self.trunk = trunk(sum(stem.width for stem in stems.values()))
        self.width = self.trunk.width
        # Follows the network's type where the encoder itself has no parameter to tell it.
        self.register_buffer("like", torch.empty(0), persistent=False)

    @property
    def spec(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for kind, stem in self.stems.items():
            assert isinstance(stem, Stem)
            found[kind] = stem.spec() if isinstance(stem, Foreign) else {stem.name: stem.spec()}
        return {**found, "trunk": {"mlp": self.trunk.settings}}

    def forward(self, parts: Parts) -> Tensor:
        dtype = next((p.dtype for p in self.parameters()), self.like.dtype)
        if place() != "row":
            return self._at_positions(parts, place(), dtype)
        if len(parts) == 1:
            (rows,) = (self._side_by_side(part, dtype) for part in parts.values())
        else:
            rows = torch.cat(self._in_turn(parts, dtype))
        found: Tensor = self.trunk(rows)
        return found

    def _in_turn(self, parts: Parts, dtype: torch.dtype) -> list[Tensor]:
        found: list[Tensor] = []
        start = 0
        for part in parts.values():
            some = next(iter(part.values()))
            with self.among(torch.arange(start, start + len(some), device=some.device)):
                found.append(self._side_by_side(part, dtype))
            start += len(some)
        return found

    def _at_positions(self, parts: Parts, where: Place, dtype: torch.dtype) -> Tensor:
        """[B·P, width]: what is known of the whole row stands beside each of its positions."""
        found = []
        for part in parts.values():
            beside = [
                stem.at_positions(part, dtype) if stem.place == where else stem(part, dtype)
                for stem in self._stems()
            ]
            known = next((each for each in beside if each is not None and each.ndim == 3), None)
            if known is None:
                some = next(iter(part.values()))
                found.append(torch.zeros(len(some), 1, self.width, dtype=dtype, device=some.device))
                continue
            wide = [
                each if each is None or each.ndim == 3
                else each.unsqueeze(1).expand(-1, known.shape[1], -1)
                for each in beside
            ]  # fmt: skip
            found.append(self.trunk(torch.cat([each for each in wide if each is not None], dim=2)))
        longest = max(each.shape[1] for each in found)
        padded = [F.pad(each, (0, 0, 0, longest - each.shape[1])) for each in found]
        return torch.cat(padded).flatten(0, 1)

    def grid(self, parts: Parts, where: Place) -> Tensor:
        found: list[Tensor | int] = []
        for part in parts.values():
            keys = [
                (s, key) for s in self._stems() if s.place == where and (key := s.labelled(part))
            ]
            rows = len(next(iter(part.values())))
            found.append(keys[0][0].grid(keys[0][1], part[keys[0][1]]) if keys else rows)
        known = [each for each in found if isinstance(each, Tensor)]
        shape = [max(sizes) for sizes in zip(*(each.shape[1:] for each in known), strict=True)]
        whole = []
        for each in found:
            if isinstance(each, Tensor):
                pad = [n for size, most in zip(each.shape[:0:-1], shape[::-1], strict=True)
                       for n in (0, most - size)]  # fmt: skip
                whole.append(F.pad(each, pad))
            else:
                whole.append(known[0].new_zeros(each, *shape))
        return torch.cat(whole)

    def canvas(self, parts: Parts) -> tuple[int, ...]:
        found = {
            tuple(part[key].shape[2:])
            for part in parts.values()
            for stem in self._stems()
            if stem.place == "pixel" and (key := stem.labelled(part))
        }
        if len(found) > 1:
            raise ValueError(f"images whose pixels are labelled have one size; got {sorted(found)}")
        return found.pop()

    def _stems(self) -> Iterator[Stem]:
        for stem in self.stems.values():
            assert isinstance(stem, Stem)
            yield stem

    def _side_by_side(self, part: Part, dtype: torch.dtype) -> Tensor:
        return torch.cat([stem(part, dtype) for stem in self.stems.values()], dim=1)


class ForeignEncoder(Encoder):
    """A user's module that is the whole encoder: ``forward(parts)`` → [B, width].

    It is given ``inputs`` where its constructor takes them; ``width`` is its attribute, or found by
    encoding two blank rows.
    """

    def __init__(
        self, inputs: Mapping[str, Input], source: str, settings: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.source, self.settings = source, dict(settings)
        self.module = load_module(source, settings, inputs=inputs)
        width = getattr(self.module, "width", None)
        self.width = width if isinstance(width, int) else _parts_width(self.module, inputs)

    @property
    def spec(self) -> dict[str, Any]:
        return {"module": self.source, "settings": self.settings}

    def forward(self, parts: Parts) -> Tensor:
        found: Tensor = self.module(parts)
        return found


def _parts_width(module: nn.Module, inputs: Mapping[str, Input]) -> int:
    part = {}
    for key, found in inputs.items():
        whole = found.whole
        shape = [8 if size < 0 else size for size in found.shape]
        part[key] = torch.zeros(2, *shape, dtype=torch.long if whole else torch.float32)
    return blank_width(module, {"blank": part}, "a part of two rows")


def make_encoder(spec: Mapping[str, Any], inputs: Mapping[str, Input]) -> Encoder:
    """The encoder that plain data describe, for these inputs.

    Raises :class:`MethodError` with the path of keys to the mistake for anything unknown.
    """
    check_encoder(spec)
    if "module" in spec:
        return ForeignEncoder(inputs, spec["module"], spec.get("settings") or {})
    stems: dict[str, Stem] = {}
    for kind in STEMS:
        mine = [found for found in inputs.values() if found.type == kind and not _ready(found)]
        if mine:
            stems[kind] = _stem(kind, spec.get(kind), mine)
    if not stems:
        raise MethodError(
            "the encoder has no input: declare at least one column that is not ignored"
        )
    name, settings = _choice("trunk", spec.get("trunk"), TRUNKS)
    with _at("trunk", name):
        return StemEncoder(stems, lambda inside: TRUNKS[name](inside, **settings))


def check_encoder(spec: Mapping[str, Any]) -> None:
    """Raise :class:`MethodError` for the first unknown key, name or setting of an encoder."""
    if "module" in spec:
        _check_keys(spec, ("module", "settings"), ())
        return
    _check_keys(spec, (*STEMS, "trunk", "module"), ())
    for kind, known in STEMS.items():
        if not _is_foreign(spec.get(kind)):
            _choice(kind, spec.get(kind), known)
        else:
            _check_keys(spec[kind], ("module", "settings"), (kind,))
    _choice("trunk", spec.get("trunk"), TRUNKS)


def check_places(spec: Mapping[str, Any], inputs: Mapping[str, Input], tasks: TaskSet) -> None:
    """Raise :class:`MethodError` for the first task whose positions the encoder has no vectors for.

    Nothing is made.
    """
    for task in tasks:
        where = task.place
        if where == "row":
            continue
        kinds = [kind for kind in STEMS if any(f.type == kind for f in inputs.values())]
        chosen = {} if "module" in spec else {
            kind: STEMS[kind][_choice(kind, spec.get(kind), STEMS[kind])[0]]
            for kind in kinds if not _is_foreign(spec.get(kind))
        }  # fmt: skip
        if not any(stem.place == where for stem in chosen.values()):
            able = [f"{{{kind}: {name}}}" for kind in kinds
                    for name, stem in STEMS[kind].items() if stem.place == where]  # fmt: skip
            hint = f"take encoder: {' or '.join(able)}" if able else f"no input has {where}s"
            raise MethodError(
                f"task {task.name!r} has a label for each {where}, and the encoder gives one "
                f"vector a row; {hint}"
            )


def _stem(kind: str, spelled: Any, inputs: Sequence[Input]) -> Stem:
    if _is_foreign(spelled):
        with _at(kind):
            return Foreign(inputs, **spelled)
    name, settings = _choice(kind, spelled, STEMS[kind])
    with _at(kind, name):
        return STEMS[kind][name](inputs, **settings)


@contextmanager
def _at(*where: str) -> Iterator[None]:
    """What goes wrong inside is told with the path of keys to it."""
    place = " ".join(("encoder", *where))
    try:
        yield
    except MethodError as error:
        raise MethodError(f"{place}: {error}", (*where, *error.where)) from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise MethodError(f"{place}: {error}", where) from error


def _choice(
    kind: str, spelled: Any, known: Mapping[str, Callable[..., Any]]
) -> tuple[str, dict[str, Any]]:
    """The name and settings of ``name``, ``{name: {settings}}`` or nothing, checked."""
    settings: Any
    match spelled:
        case None:
            return next(iter(known)), {}
        case str():
            name, settings = spelled, {}
        case Mapping() if len(spelled) == 1:
            ((name, settings),) = spelled.items()
        case _:
            shape = "its name, or {name: {settings}}"
            raise MethodError(f"encoder {kind} must be {shape}; got {spelled!r}", (kind,))
    if name not in known:
        raise MethodError(
            f"encoder {kind}: no {name!r}{did_you_mean(str(name), known)}", (kind, name)
        )
    settings = settings or {}
    if not isinstance(settings, Mapping):
        raise MethodError(f"encoder {kind} {name!r}: the settings must be a mapping", (kind, name))
    accepted = inspect.signature(known[name]).parameters.values()
    _check_keys(settings, [p.name for p in accepted if p.kind is p.KEYWORD_ONLY], (kind, name))
    return name, dict(settings)


def _check_keys(given: Mapping[str, Any], known: Sequence[str], where: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            place = " ".join(("encoder", *where))
            raise MethodError(
                f"{place}: no setting {key!r}{did_you_mean(str(key), known)}", (*where, key)
            )


def _is_foreign(spelled: Any) -> bool:
    return isinstance(spelled, Mapping) and "module" in spelled


def _ready(found: Input) -> bool:
    """Whether an input is a cached feature, which its own stem picks up."""
    return found.key.startswith("features.")
