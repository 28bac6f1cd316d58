"""Which parameters the losses reach, read off the autograd graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from plait.networks.base import task_slices

if TYPE_CHECKING:
    from plait.training.engine import Root


def masks_of(roots: Sequence[Root]) -> dict[Any, int]:
    """Every node of the graph → the tasks that reach it, as a bit mask over the roots.

    Entries of one stacked tensor reach whatever the tensor does. A node comes after its inputs.
    """
    masks: dict[Any, int] = {}
    for bit, root in enumerate(roots):
        node = root.output.grad_fn
        if node is not None:
            masks[node] = masks.get(node, 0) | 1 << bit
    order = after_inputs(list(masks))
    for node in reversed(order):
        mask = masks[node]
        for source, _ in node.next_functions:
            if source is not None:
                masks[source] = masks.get(source, 0) | mask
    return {node: masks[node] for node in order}


def reached(masks: Mapping[Any, int]) -> dict[nn.Parameter, int]:
    """Parameter → the tasks that reach it, from those that reach each node."""
    leaves = ((getattr(node, "variable", None), mask) for node, mask in masks.items())
    return {leaf: mask for leaf, mask in leaves if leaf is not None}


def after_inputs(starts: list[Any]) -> list[Any]:
    """All nodes of the graph, each after the nodes that it takes its input from."""
    order: list[Any] = []
    seen: set[Any] = set()
    stack = [(node, False) for node in starts]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((source, False) for source, _ in node.next_functions if source is not None)
    return order


def check_reach(
    masks: Mapping[Any, int],
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
    if any(node.name() == "CheckpointFunctionBackward" for node in masks):
        raise ValueError(
            "reentrant checkpointing hides its block from the tasks' passes: pass "
            "use_reentrant=False to torch.utils.checkpoint"
        )
    found = reached(masks)
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
