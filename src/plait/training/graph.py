"""Which parameters the losses reach, read off the autograd graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from plait.networks.base import task_slices

if TYPE_CHECKING:
    from plait.training.engine import Root


Pairs = tuple[tuple[Any, int], ...]  # by slot: the node that an input comes from, and its output


@dataclass(frozen=True)
class Graph:
    """The autograd graph of some losses, read once.

    ``inputs`` has every node, each after those that it takes its input from. ``masks`` are the
    tasks that reach each, as a bit mask over the roots, and ``leaves`` the tensors at the leaves.
    """

    starts: tuple[Any, ...]
    inputs: Mapping[Any, Pairs]
    masks: Mapping[Any, int]
    leaves: Mapping[Any, nn.Parameter]

    @classmethod
    def of(cls, roots: Sequence[Root]) -> Graph:
        """The graph of the roots.

        Entries of one stacked tensor reach whatever the tensor does.
        """
        masks: dict[Any, int] = {}
        for bit, root in enumerate(roots):
            node = root.output.grad_fn
            if node is not None:
                masks[node] = masks.get(node, 0) | 1 << bit
        starts = tuple(masks)
        inputs = _after_inputs(starts)
        leaves = {}
        for node, pairs in reversed(inputs.items()):
            mask = masks[node]
            for source, _ in pairs:
                if source is not None:
                    masks[source] = masks.get(source, 0) | mask
            leaf = None if pairs else getattr(node, "variable", None)
            if leaf is not None:
                leaves[node] = leaf
        return cls(starts, inputs, masks, leaves)

    @property
    def reached(self) -> dict[nn.Parameter, int]:
        """Parameter → the tasks that reach it."""
        return {leaf: self.masks[node] for node, leaf in self.leaves.items()}


def _after_inputs(starts: Sequence[Any]) -> dict[Any, Pairs]:
    """All nodes of the graph and what each takes its input from, each after those."""
    found: dict[Any, Pairs] = {}
    opened: dict[Any, Pairs] = {}
    stack = list(starts)
    while stack:
        node = stack[-1]
        if node in opened:
            stack.pop()
            if node not in found:
                found[node] = opened[node]
            continue
        pairs = opened[node] = node.next_functions
        stack += [source for source, _ in pairs if source is not None and source not in opened]
    return found


def check_reach(
    graph: Graph,
    tasks: Sequence[str],
    shared: Sequence[nn.Parameter],
    specific: Iterable[nn.Parameter] | None,
    method: str,
    *,
    allow_unused: bool,
) -> dict[nn.Parameter, int]:
    """The task-specific parameters that the losses reach, each with a bit mask of the tasks.

    Raises ``ValueError`` where ``shared`` is empty or holds a parameter that no task reaches, where
    several tasks reach a parameter that neither list holds, and for reentrant checkpointing.
    """
    if not shared:
        raise ValueError(f"{method} compares gradients on shared parameters, and there are none")
    if any(kind.__name__ == "CheckpointFunctionBackward" for kind in set(map(type, graph.inputs))):
        raise ValueError(
            "reentrant checkpointing hides its block from the tasks' passes: pass "
            "use_reentrant=False to torch.utils.checkpoint"
        )
    found = graph.reached
    known = set(shared)
    unused = [parameter for parameter in shared if parameter not in found]
    if unused and not allow_unused:
        raise ValueError(
            f"{len(unused)} of the shared parameters, the first of shape {tuple(unused[0].shape)}, "
            "are reached by no task: unused, detached or of another network. Leave them out of "
            "`shared`, or pass allow_unused=True if only absent tasks use them"
        )
    given = set(specific) if specific is not None else set()
    heads = {}
    for parameter, mask in found.items():
        if parameter in known:
            continue
        if mask & (mask - 1) and parameter not in given and task_slices(parameter) is None:
            names = [repr(task) for bit, task in enumerate(tasks) if mask >> bit & 1]
            some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            if not isinstance(parameter, nn.Parameter):
                raise ValueError(
                    f"a tensor of shape {tuple(parameter.shape)} that is no parameter (an input?) "
                    "requires a gradient and several tasks reach it: detach it, or name it in "
                    "`specific` if its gradient is wanted"
                )
            raise ValueError(
                f"a parameter of shape {tuple(parameter.shape)} is reached by several tasks "
                f"({some}) but is not in `shared`; add it there, or to `specific` if each task "
                "trains its own entries of it"
            )
        heads[parameter] = mask
    return heads
