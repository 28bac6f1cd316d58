"""One ONNX file: columns in, one output per task out, checked with onnxruntime on rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import plait
from plait.comparing.model import BundleModel, Model, NetworkModel
from plait.comparing.plain.model import EstimatorModel
from plait.comparing.predictor import Predictor
from plait.exporting.check import Array, ExportError, compare, need
from plait.exporting.estimators import estimators
from plait.exporting.graph import OPSET, Graph
from plait.exporting.reading import BATCH, feed, read_columns
from plait.exporting.subject import Subject
from plait.exporting.whole import Whole, quiet, traced
from plait.weights.files import write_atomic


def export_onnx(
    predictor: Predictor,
    path: str | Path,
    *,
    rows: Any = None,
    table: str | None = None,
    tokens: bool = False,
) -> dict[str, Any]:
    """Write a model with its preprocessing as one ONNX file, and check it with onnxruntime.

    ``rows`` (anything a study reads) is what the file is checked on, to 1e-5; without it rows are
    made up. ``tokens``: take token numbers in place of texts, which ONNX cannot cut. Returns what
    was written and how far predictions differ. Raises :class:`ExportError`, and writes nothing,
    where something cannot be exported or differs.
    """
    need("export", "onnx", "onnxruntime", "onnxscript")
    subject = Subject.of(predictor, rows, table)
    graph = Graph()
    encoded = read_columns(graph, subject, tokens=tokens)
    part = subject.part()
    found = _lower(graph, subject.model, encoded, subject, part)
    outputs = {}
    for name, task in subject.tasks.items():
        wide = [len(task.classes)] if task.named else []
        outputs[name] = graph.output(name, found[name], [BATCH, *wide])
    told = _told(subject, graph, outputs)
    model = graph.model({"plait": json.dumps(told)}, f"Made by plait {plait.__version__}.")
    data: bytes = model.SerializeToString()
    inputs = feed(subject, part)
    theirs = _run(data, inputs, outputs)
    off = compare("onnxruntime", subject.tasks, subject.predictions(part), theirs)
    write_atomic(path, data)
    return {**told, "checked": subject.rows.rows, "real": subject.real, "difference": off}


def _lower(
    graph: Graph,
    model: Model,
    encoded: Mapping[str, str],
    subject: Subject,
    part: Mapping[str, Tensor],
) -> dict[str, str]:
    """Add a model to the graph; returns the names of the tasks' predictions."""
    own = {name: task for name, task in subject.tasks.items() if name in model.tasks.names}
    if not own:
        return {}
    if isinstance(model, BundleModel):
        found: dict[str, str] = {}
        for member in model.members:
            found |= _lower(graph, member, encoded, subject, part)
        return found
    if isinstance(model, EstimatorModel):
        return estimators(graph, model, encoded, own)
    if isinstance(model, NetworkModel):
        return _network(graph, model, encoded, subject, part)
    raise ExportError(f"models of sort {model.sort!r} cannot be written as ONNX")


def _network(
    graph: Graph,
    model: NetworkModel,
    encoded: Mapping[str, str],
    subject: Subject,
    part: Mapping[str, Tensor],
) -> dict[str, str]:
    whole = Whole(model.network, list(subject.tasks))
    program = traced(whole, part, subject.ragged)
    with quiet(), torch.no_grad():
        try:
            written = torch.onnx.export(
                program, (), dynamo=True, verbose=False, opset_version=OPSET, optimize=True
            )
        except Exception as error:  # of many types; each says which operator is missing
            said = str(error).partition("## Exception summary")[2] or str(error)
            lines = [line for line in said.splitlines() if line.strip()]
            raise ExportError(
                f"PyTorch cannot write this model as ONNX ({lines[0] if lines else error}); "
                "--torch may work, and plait.load(folder).predict always does"
            ) from error
    assert written is not None
    names = graph.adopt(written.model_proto, list(encoded.values()))
    return dict(zip((n for n in model.tasks.names if n in subject.tasks), names, strict=True))


def _told(subject: Subject, graph: Graph, outputs: Mapping[str, str]) -> dict[str, Any]:
    """What the file's metadata say of its inputs and outputs."""
    return {
        "plait": plait.__version__,
        "inputs": list(graph.inputs),
        "outputs": {
            outputs[name]: {"task": name, "kind": task.kind, "classes": list(task.classes)}
            for name, task in subject.tasks.items()
        },
    }


def _run(data: bytes, inputs: Mapping[str, Array], outputs: Mapping[str, str]) -> dict[str, Array]:
    import onnxruntime  # type: ignore[import-untyped,unused-ignore]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        found = session.run(list(outputs.values()), dict(inputs))
    except Exception as error:  # onnxruntime's errors have no common class
        line = str(error).splitlines()[0]
        raise ExportError(
            f"onnxruntime cannot run the file: {line}; nothing was written"
        ) from error
    return {name: np.asarray(value) for name, value in zip(outputs, found, strict=True)}
