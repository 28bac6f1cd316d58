"""Where the shared parameters enter the autograd graph, and through which operations.

The forward has happened when the losses are at hand; what a layer's gradient is made of is in the
graph: its inputs are saved for the backward pass, and the cotangent of its output is the gradient
at that edge. So nothing needs to be hooked, and a functional call counts like a module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn
from torch.autograd.graph import GradientEdge

from plait.training.engine.rules import ADDMM, RULES, Linear, Norm, Use
from plait.training.graph import Graph

VIEWS = {"ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0"}
TURNS = {"TBackward0", "TransposeBackward0", "PermuteBackward0", "NumpyTBackward0"}


# Each row of the result is made from the same row of the inputs, on matrices [N, d].
ROW_BY_ROW = {
    *("ReluBackward0", "TanhBackward0", "SigmoidBackward0", "GeluBackward0", "SiluBackward0"),
    *("EluBackward0", "LeakyReluBackward0", "SoftplusBackward0", "HardtanhBackward0"),
    *("AddBackward0", "SubBackward0", "MulBackward0", "DivBackward0", "CloneBackward0"),
    *("NegBackward0", "ToCopyBackward0", "NativeDropoutBackward0"),
}


@dataclass(frozen=True)
class Places:
    """The operations with a rule, and the positions of the parameters that none of them covers."""

    uses: tuple[Use, ...]
    plain: tuple[int, ...]
    graph: Graph

    @cached_property
    def top(self) -> tuple[Use, ...]:
        """The operations that the losses reach without passing another."""
        owner = {node: use for use in self.uses for node in use.nodes}
        seen, stack, top = set(self.graph.starts), list(self.graph.starts), []
        while stack:
            node = stack.pop()
            if node in owner:
                if owner[node] not in top:
                    top.append(owner[node])
                continue
            for source, _ in self.graph.inputs[node]:
                if source is not None and source not in seen:
                    seen.add(source)
                    stack.append(source)
        return tuple(top)

    @property
    def neck(self) -> Any | None:
        """The one operation on top, if there is but one."""
        return self.top[0].nodes[0] if len(self.top) == 1 and len(self.top[0].nodes) == 1 else None


@dataclass(frozen=True)
class Entry:
    """A parameter's way into an operation: the node, its slot, and whether it came transposed."""

    node: Any
    slot: int
    turned: bool


def find(parameters: Sequence[nn.Parameter], graph: Graph) -> Places:
    """Read the uses of the parameters off the graph of the losses.

    A parameter used several times keeps a rule if all its uses are of one kind, beside the same
    other parameter; their rows are then one after another.
    """
    entries = _entries(graph, parameters)
    groups: dict[tuple[Any, ...], list[Use]] = {}
    by_node: dict[Any, dict[int, tuple[int, bool]]] = {}
    plain: set[int] = set()
    for place, found in enumerate(entries):
        for entry in found:
            by_node.setdefault(entry.node, {})[entry.slot] = (place, entry.turned)
    for node in graph.inputs:
        slots = by_node.get(node)
        if slots is None:
            continue
        rule = RULES.get(node.name())
        use = rule(node, slots, parameters) if rule is not None else None
        if use is None:
            plain.update(place for place, _ in slots.values())
        else:
            groups.setdefault(use.kind, []).append(use)
    uses = [one if not more else one.joined([one, *more]) for one, *more in groups.values()]
    held: dict[int, int] = {}
    for use in uses:
        for place in use.places:
            held[place] = held.get(place, 0) + 1
    plain.update(place for place, times in held.items() if times > 1)
    plain.update(place for place, found in enumerate(entries) if not found)
    kept = tuple(use for use in uses if not plain.intersection(use.places))
    covered = {place for use in kept for place in use.places}
    every = range(len(parameters))
    return Places(kept, tuple(p for p in every if p not in covered), graph)


def edges(use: Use) -> list[GradientEdge]:
    """The outputs of a use's operations, as inputs to ``torch.autograd.grad``."""
    return [GradientEdge(node, 0) for node in use.nodes]


def _entries(graph: Graph, parameters: Sequence[nn.Parameter]) -> list[list[Entry]]:
    """Where every parameter goes in, through views, a transposition and changes of precision."""
    position = {id(parameter): place for place, parameter in enumerate(parameters)}
    trail: dict[Any, tuple[int, bool]] = {}
    for node, leaf in graph.leaves.items():
        if id(leaf) in position:
            trail[node] = position[id(leaf)], False
    found: list[list[Entry]] = [[] for _ in parameters]
    for node, pairs in graph.inputs.items():
        for slot, (source, _) in enumerate(pairs):
            if source not in trail:
                continue
            place, turned = trail[source]
            name = node.name()
            if name == "ToCopyBackward0" or (name in VIEWS and not turned):
                trail[node] = place, turned
            elif name in TURNS and _turns(node):
                trail[node] = place, not turned
            else:
                found[place].append(Entry(node, slot, turned))
    return found


def _turns(node: Any) -> bool:
    """Whether a permutation swaps the two dimensions of a matrix."""
    return len(node._input_metadata[0].shape) == 2 and list(
        getattr(node, "_saved_dims", (1, 0))
    ) in ([1, 0], [-1, 0], [-1, -2], [1, -2])


def row_by_row(top: Any | None, places: Places) -> bool:
    """Whether an operation and all below it work row by row on matrices of as many rows."""
    if top is None:
        return False
    owners = {node for use in places.uses if isinstance(use, (Linear, Norm)) for node in use.nodes}
    rows, inputs = top._input_metadata[0].shape[0], places.graph.inputs
    stack, seen = [top], {top}
    while stack:
        node = stack.pop()
        if node in owners:  # its other inputs are parameters
            slot = 1 if node.name() == ADDMM else 0
            sources = [inputs[node][slot][0]]
        else:
            sources = [source for source, _ in inputs[node]]
        shape = node._input_metadata[0].shape
        if len(shape) != 2 or shape[0] != rows or not (node in owners or node.name() in ROW_BY_ROW):
            return False
        for source in sources:
            if source is not None and source not in seen:
                seen.add(source)
                stack.append(source)
    return True
