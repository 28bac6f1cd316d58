"""An ONNX graph under construction: nodes and constants by name, written once at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from plait.exporting.check import ExportError

OPSET = 20
OPSET_ML = 3  # LabelEncoder and TreeEnsembleRegressor
IR = 10

Array = np.ndarray[Any, Any]


class Graph:
    """Nodes, constants, inputs and outputs; names made here never meet those of the user."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self._count = 0

    def fresh(self) -> str:
        """A name that nothing has yet."""
        self._count += 1
        return f"plait/{self._count}"

    def input(self, name: str, dtype: type, shape: Sequence[int | str]) -> str:
        """Declare an input; asked for again, it is the same one."""
        from onnx import helper

        if name.startswith("plait/") or not name:
            raise ExportError(f"a column called {name!r} cannot be an input; rename it")
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        made = helper.make_tensor_value_info(name, kind, list(shape))
        if self.inputs.setdefault(name, made) != made:
            raise ExportError(
                f"the column {name!r} is read in two ways; give each use a column of its own"
            )
        return name

    def output(self, name: str, value: str, shape: Sequence[int | str]) -> str:
        """Declare a float32 output; it is called otherwise where an input has the name."""
        from onnx import TensorProto, helper

        own = name or "unnamed"
        while own in self.inputs or own in self.outputs or own.startswith("plait/"):
            own = f"predicted {own}"
        made = helper.make_tensor_value_info(own, TensorProto.FLOAT, list(shape))
        self.outputs[own] = made
        cast = self.add("Cast", value, to=TensorProto.FLOAT)
        self.nodes.append(helper.make_node("Identity", [cast], [own]))
        return own

    def constant(self, value: Any, dtype: type | None = None) -> str:
        """A constant array."""
        from onnx import numpy_helper

        name = self.fresh()
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node with one output, whose name is returned."""
        from onnx import helper

        name = self.fresh()
        self.nodes.append(
            helper.make_node(op, list(inputs), [name], name=name, domain=domain, **attributes)
        )
        return name

    def adopt(self, model: Any, given: Sequence[str]) -> list[str]:
        """Take in a whole model, its inputs fed from ``given``; returns the names of its outputs.

        Raises :class:`ExportError` for a model of another opset.
        """
        from onnx import compose, helper

        if any(each.domain == "" and each.version != OPSET for each in model.opset_import):
            raise ExportError("the exporter of this PyTorch writes another version of ONNX")
        inner = compose.add_prefix(model, f"{self.fresh()}/").graph
        for outside, inside in zip(given, inner.input, strict=True):
            self.nodes.append(helper.make_node("Identity", [outside], [inside.name]))
        self.nodes.extend(inner.node)
        self.initializers.extend(inner.initializer)
        return [each.name for each in inner.output]

    def model(self, about: Mapping[str, str], words: str) -> Any:
        """The finished, checked model; ``about`` is kept in its metadata."""
        import onnx
        from onnx import helper

        graph = helper.make_graph(
            self.nodes,
            "plait",
            list(self.inputs.values()),
            list(self.outputs.values()),
            initializer=self.initializers,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", OPSET_ML)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="plait", ir_version=IR)
        model.doc_string = words
        helper.set_model_props(model, dict(about))
        if model.ByteSize() >= 2**31:
            raise ExportError("the model is larger than 2 GB, which one ONNX file cannot hold")
        onnx.checker.check_model(model)
        return model
