"""One ``torch.export`` file (.pt2): a graph without Python, read back and checked on rows."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import plait
from plait.comparing.model import BundleModel, Model, NetworkModel
from plait.comparing.predictor import Predictor
from plait.data.inputs import (
    Categorical,
    Encoding,
    Image,
    Items,
    Numeric,
    Text,
    Vector,
)
from plait.data.tensors import Standardise
from plait.data.text import Tokens
from plait.exporting.check import Array, ExportError, compare
from plait.exporting.reading import feed, token_names
from plait.exporting.subject import Subject
from plait.exporting.whole import Whole, quiet, traced
from plait.networks.network import Network
from plait.weights.files import replacing

ABOUT = "plait.json"


def export_torch(
    predictor: Predictor,
    path: str | Path,
    *,
    rows: Any = None,
    table: str | None = None,
    tokens: bool = False,
) -> dict[str, Any]:
    """Write networks with the preprocessing of their numbers as one ``torch.export`` file.

    The file takes a dictionary of columns: numbers float64 [batch] with NaN for missing, categories
    as codes int64 [batch] (0 unknown), images and vectors float32, and with ``tokens`` token
    numbers for texts. ``plait.json`` inside lists them with the codes. Checked as
    :func:`export_onnx` does; raises :class:`ExportError` where something cannot be exported.
    """
    subject = Subject.of(predictor, rows, table)
    for each in subject.encodings:
        if isinstance(each, Text) and not tokens:
            raise ExportError(
                f"the text {each.role!r} is cut into tokens before the model reads it, which no "
                "graph does; with --tokens the file takes token numbers in place of the text"
            )
    networks = list(_networks(subject.model, subject))
    module = Columns(subject, networks)
    part = subject.part()
    inputs = _inputs(subject, part)
    program = traced(module, inputs, _texts(subject))
    told = _told(subject)
    with replacing(path) as temporary:
        kept = {ABOUT: json.dumps(told, ensure_ascii=False)}
        file = io.BytesIO()
        with quiet():
            torch.export.save(program, file, extra_files=kept)
            file.seek(0)
            again = torch.export.load(file).module()
            found = again(part=inputs)
        theirs: dict[str, Array] = {name: value.numpy() for name, value in found.items()}
        off = compare("torch.export", subject.tasks, subject.predictions(part), theirs)
        temporary.write_bytes(file.getvalue())
    return {**told, "checked": subject.rows.rows, "real": subject.real, "difference": off}


def _networks(model: Model, subject: Subject) -> Iterator[Network]:
    if isinstance(model, BundleModel):
        for member in model.members:
            yield from _networks(member, subject)
    elif not isinstance(model, NetworkModel):
        raise ExportError(
            f"only networks can be written by torch.export, and this is a model of sort "
            f"{model.sort!r}; use --onnx"
        )
    elif set(model.tasks.names) & set(subject.tasks):
        yield model.network


class Columns(nn.Module):
    """``forward(part)``: columns of a table → predictions by task, all networks together."""

    def __init__(self, subject: Subject, networks: list[Network]) -> None:
        super().__init__()
        self.encodings = subject.encodings
        self.columns = subject.columns
        self.order = list(subject.tasks)
        self.networks = nn.ModuleList([Whole(network, self.order) for network in networks])

    def forward(self, part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """(columns by name) → predictions by task."""
        read = {each.input.key: self._read(each, part) for each in self.encodings}
        found: dict[str, Tensor] = {}
        for network in self.networks:
            found |= network(read)
        return {name: found[name] for name in self.order}

    def _read(self, each: Encoding, part: Mapping[str, Tensor]) -> Tensor:
        match each:
            case Numeric():
                return self._numbers(each, part)
            case Categorical():
                some = next(iter(part.values())).shape[0]
                nothing = torch.zeros(some, dtype=torch.long)
                codes = [
                    part[self.columns[role][0]] if role in self.columns else nothing
                    for role in each.roles
                ]
                return torch.stack(codes, dim=1)
            case Image():
                finish: Standardise = each.finish  # type: ignore[assignment]
                return torch.addcmul(finish.shift, part[self.columns[each.role][0]], finish.factor)
            case Vector() | Items():
                return part[self.columns[each.role][0]]
            case Text():
                names = token_names(each)
                if isinstance(each.coding, Tokens):
                    return (part[names[0]] + 1) * part[names[1]]
                return part[names[0]]
        raise ExportError(f"inputs of type {each.input.type!r} cannot be exported")

    def _numbers(self, each: Numeric, part: Mapping[str, Tensor]) -> Tensor:
        rows = next(iter(part.values())).shape[0]
        scaled, missing = [], {}
        for role, center, scale in zip(each.roles, each.center, each.scale, strict=True):
            if role not in self.columns:
                scaled.append(torch.zeros(rows))
                continue
            value = part[self.columns[role][0]]
            missing[role] = torch.isnan(value)
            scaled.append(torch.where(missing[role], 0.0, (value - center) / scale).float())
        present = torch.ones(rows)
        flags = [missing[r].float() if r in missing else present for r in each.indicators]
        return torch.stack([*scaled, *flags], dim=1)


def _inputs(subject: Subject, part: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The subject's rows as the columns that the file takes."""
    found: dict[str, Tensor] = {}
    codes = part.get("categorical")
    for name, value in feed(subject, part).items():
        found[name] = torch.from_numpy(value) if value.dtype != object else torch.zeros(0)
    for each in subject.encodings:
        if isinstance(each, Items):
            found[subject.columns[each.role][0]] = part[each.input.key]
        if isinstance(each, Categorical) and codes is not None:
            for place, role in enumerate(each.roles):
                if role in subject.columns:
                    found[subject.columns[role][0]] = codes[:, place].contiguous()
    return found


def _texts(subject: Subject) -> dict[str, str]:
    """The columns of differing lengths, and whose length each has."""
    found: dict[str, str] = {}
    for each in subject.encodings:
        if isinstance(each, Text):
            found |= dict.fromkeys(token_names(each), each.role)
        if isinstance(each, Items):
            found[subject.columns[each.role][0]] = each.role
    return found


def _told(subject: Subject) -> dict[str, Any]:
    """What a program that serves the file needs: inputs, codes of categories, tasks."""
    codes = {
        subject.columns[role][0]: list(values)
        for each in subject.encodings
        if isinstance(each, Categorical)
        for role, values in zip(each.roles, each.values, strict=True)
        if role in subject.columns
    }
    codes |= {
        subject.columns[each.role][0]: list(each.values)
        for each in subject.encodings
        if isinstance(each, Items)
    }
    return {
        "plait": plait.__version__,
        "categories": codes,  # the code of a value is its place here, from 1; 0 for all others
        "outputs": {
            name: {"task": name, "kind": task.kind, "classes": list(task.classes)}
            for name, task in subject.tasks.items()
        },
    }
