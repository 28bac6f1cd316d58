"""The preprocessing as ONNX nodes: columns in, what networks and estimators read out.

Numbers are float64 [batch], NaN where missing; categories are text [batch], lists of items text
[batch, items]; images and vectors are float32. Texts cannot be tokenised by ONNX operators: their
token numbers are inputs, if wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from plait.data.images import stack_images
from plait.data.inputs import Categorical, Encoding, Image, Items, Numeric, Text, Vector
from plait.data.profile import as_numbers, as_text
from plait.data.sources import Chunk
from plait.data.text import Tokens
from plait.data.vectors import exploded, stack
from plait.exporting.check import Array, ExportError
from plait.exporting.graph import Graph
from plait.exporting.subject import Subject

BATCH = "batch"


def read_columns(graph: Graph, subject: Subject, *, tokens: bool) -> dict[str, str]:
    """Add inputs and preprocessing to a graph; returns the names of the encoded inputs by key."""
    found = {}
    for each in subject.encodings:
        match each:
            case Numeric():
                found[each.input.key] = _numbers(graph, each, subject)
            case Categorical():
                found[each.input.key] = _codes(graph, each, subject)
            case Image():
                found[each.input.key] = _image(graph, each, subject)
            case Vector():
                (column,) = subject.columns[each.role]
                found[each.input.key] = graph.input(column, np.float32, [BATCH, each.width])
            case Items():
                found[each.input.key] = _items(graph, each, subject)
            case Text():
                found[each.input.key] = _tokens(graph, each, tokens=tokens)
            case _:
                raise ExportError(f"inputs of type {each.input.type!r} cannot be exported")
    return found


def _wide(graph: Graph, value: str) -> str:
    return graph.add("Unsqueeze", value, graph.constant([1], np.int64))


def _like(graph: Graph, value: str, filled: float, dtype: type) -> str:
    """[batch, 1] of one value, as many rows as ``value`` has."""
    shape = graph.add("Shape", value, start=0, end=1)
    shape = graph.add("Concat", shape, graph.constant([1], np.int64), axis=0)
    return graph.add("Expand", graph.constant([[filled]], dtype), shape)


def _numbers(graph: Graph, each: Numeric, subject: Subject) -> str:
    have = [role for role in each.roles if role in subject.columns]
    inputs = {role: graph.input(subject.columns[role][0], np.float64, [BATCH]) for role in have}
    missing, scaled = {}, {}
    for role, name in inputs.items():
        place = each.roles.index(role)
        missing[role] = graph.add("IsNaN", name)
        gap = graph.add("Sub", name, graph.constant(each.center[place], np.float64))
        ratio = graph.add("Div", gap, graph.constant(each.scale[place], np.float64))
        zero = graph.constant(0.0, np.float64)
        value = graph.add("Where", missing[role], zero, ratio)
        scaled[role] = _wide(graph, graph.add("Cast", value, to=_type(np.float32)))
    some = inputs[have[0]]
    columns = [
        scaled[role] if role in scaled else _like(graph, some, 0.0, np.float32)
        for role in each.roles
    ]
    for role in each.indicators:
        if role in missing:
            columns.append(_wide(graph, graph.add("Cast", missing[role], to=_type(np.float32))))
        else:
            columns.append(_like(graph, some, 1.0, np.float32))
    return graph.add("Concat", *columns, axis=1)


def _codes(graph: Graph, each: Categorical, subject: Subject) -> str:
    inputs = {
        role: graph.input(subject.columns[role][0], object, [BATCH])
        for role in each.roles
        if role in subject.columns
    }
    some = next(iter(inputs.values()))
    columns = []
    for role, values in zip(each.roles, each.values, strict=True):
        if role not in inputs or not values:
            columns.append(_like(graph, some, 0, np.int64))
            continue
        code = graph.add(
            "LabelEncoder", inputs[role], domain="ai.onnx.ml", keys_strings=list(values),
            values_int64s=list(range(1, len(values) + 1)), default_int64=0,
        )  # fmt: skip
        columns.append(_wide(graph, code))
    return graph.add("Concat", *columns, axis=1)


def _items(graph: Graph, each: Items, subject: Subject) -> str:
    (column,) = subject.columns[each.role]
    name = graph.input(column, object, [BATCH, f"{each.role} items"])
    return graph.add(
        "LabelEncoder", name, domain="ai.onnx.ml", keys_strings=list(each.values),
        values_int64s=list(range(1, len(each.values) + 1)), default_int64=0,
    )  # fmt: skip


def _image(graph: Graph, each: Image, subject: Subject) -> str:
    (column,) = subject.columns[each.role]
    name = graph.input(column, np.float32, [BATCH, *each.shape])
    finish: Any = each.finish
    # torch rounds once after the product and the sum, and a tree may hang on the last bit.
    wide = graph.add("Cast", name, to=_type(np.float64))
    scaled = graph.add("Mul", wide, graph.constant(finish.factor.numpy(), np.float64))
    moved = graph.add("Add", scaled, graph.constant(finish.shift.numpy(), np.float64))
    return graph.add("Cast", moved, to=_type(np.float32))


def _tokens(graph: Graph, each: Text, *, tokens: bool) -> str:
    if not tokens:
        raise ExportError(
            f"the text {each.role!r} is cut into tokens before the model reads it, which ONNX has "
            "no operators for; with --tokens the file takes token numbers in place of the text"
        )
    if not isinstance(each.coding, Tokens):
        return graph.input(token_names(each)[0], np.int64, [BATCH, f"{each.role} tokens"])
    ids, mask = (
        graph.input(name, np.int64, [BATCH, f"{each.role} tokens"]) for name in token_names(each)
    )
    shifted = graph.add("Add", ids, graph.constant(1, np.int64))
    return graph.add("Mul", shifted, mask)


def token_names(each: Text) -> list[str]:
    """What the inputs of a text are called."""
    if isinstance(each.coding, Tokens):
        return [f"{each.role}.input_ids", f"{each.role}.attention_mask"]
    return [f"{each.role}.tokens"]


def _type(dtype: type) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def feed(subject: Subject, part: Mapping[str, Tensor]) -> dict[str, Array]:
    """The subject's rows as the inputs that :func:`read_columns` declares; ``part`` has the tokens.

    Missing categories are given as a text that no category has.
    """
    rows = subject.rows
    chunk = Chunk(
        rows=np.arange(rows.rows), frame=rows.collect(list(rows.schema)), arrays=rows.arrays,
        table=rows,
    )  # fmt: skip
    found: dict[str, Array] = {}
    for each in subject.encodings:
        if isinstance(each, Text):
            tokens = part[each.input.key].numpy()
            if isinstance(each.coding, Tokens):
                ids, mask = np.maximum(tokens - 1, 0), (tokens != 0).astype(np.int64)
                found |= dict(zip(token_names(each), (ids, mask), strict=True))
            else:
                found[token_names(each)[0]] = tokens
            continue
        for place, role in enumerate(each.roles):
            if role in subject.columns:
                (column,) = subject.columns[role]
                found[column] = _column(each, place, chunk, column)
    return found


def _column(each: Encoding, place: int, chunk: Chunk, column: str) -> Array:
    match each:
        case Numeric():
            return as_numbers(chunk, [column])[:, 0]
        case Categorical():
            text = as_text(chunk.frame[column])
            return np.array(text.fill_null(unknown(each.values[place])).to_list(), dtype=object)
        case Items():
            return _padded(*exploded(chunk, column), rows=len(chunk), filler=unknown(each.values))
        case Image():
            return stack_images(chunk, column).astype(np.float32)
    return np.asarray(stack(chunk, column).reshape(len(chunk), -1), dtype=np.float32)


def _padded(items: pl.Series, rows_of: Array, *, rows: int, filler: str) -> Array:
    """Items one after another as text [rows, most items], filled with what is no item."""
    lengths = np.bincount(rows_of, minlength=rows)
    found = np.full((rows, max(1, int(lengths.max(initial=0)))), filler, dtype=object)
    place = np.arange(len(rows_of)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    found[rows_of, place] = items.to_list()
    return found


def unknown(values: tuple[str, ...]) -> str:
    """A text that stands for a missing category: the empty one, unless that is a category."""
    return next(name for name in ("", "missing", "\0missing") if name not in values)
