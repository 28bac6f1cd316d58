"""Which axes of a module's tensors hold the same units, read off its graph.

The module is traced; units (features of linear layers, channels of convolutions) are followed
through activations, norms, pooling, flattening and branches, and groups that are added to one
another become one. Whatever an operation mixes that is not known here keeps its units as they are:
its group is left out, never guessed.

>>> from torch import nn
>>> net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
>>> unit_rules(net)
{'0.weight': ['0', None], '0.bias': ['0'], '2.weight': [None, '0']}
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812

Rule = list[str | None]
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.RMSNorm, nn.PReLU)
_POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample,
)  # fmt: skip
_SAME = (
    nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Identity,
    nn.Hardswish, nn.Mish, nn.ReLU6, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
)  # fmt: skip
_SAME_CALLS: frozenset[Any] = frozenset(
    (
        torch.relu, torch.tanh, torch.sigmoid, F.relu, F.gelu, F.silu, F.elu, F.leaky_relu,
        F.dropout, F.softplus, "relu", "tanh", "sigmoid", "contiguous", "clone", "float",
    )
)  # fmt: skip
_POOL_CALLS: frozenset[Any] = frozenset(
    (F.max_pool1d, F.max_pool2d, F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool2d)
)
_JOINS: frozenset[Any] = frozenset(
    (operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, torch.add, torch.mul,
     torch.sub, "add", "add_", "sub", "mul")
)  # fmt: skip
_FLATTENS: frozenset[Any] = frozenset((torch.flatten, "flatten"))


@dataclass(frozen=True)
class Value:
    """Units of a group along an axis: the second (of maps) or the last."""

    group: int
    last: bool


class Groups:
    """Groups of units that are found to be one, and the axes that hold them; 0 stays as it is."""

    def __init__(self) -> None:
        self._parents = [0]
        self._axes: dict[tuple[str, int], tuple[int, bool]] = {}

    def new(self) -> int:
        """A group of its own."""
        self._parents.append(len(self._parents))
        return len(self._parents) - 1

    def root(self, group: int) -> int:
        """The group that stands for all that are one with this."""
        while self._parents[group] != group:
            group = self._parents[group]
        return group

    def join(self, one: int, other: int) -> int:
        """Make two groups one."""
        low, high = sorted((self.root(one), self.root(other)))
        self._parents[high] = low
        return low

    def hold(self, name: str, axis: int, group: int, *, writes: bool) -> None:
        """Note that an axis of a tensor holds a group's units."""
        known = self._axes.get((name, axis))
        if known is not None:  # the tensor is used twice
            self.join(known[0], group)
            if known[1] != writes:
                self.join(group, 0)
        self._axes[name, axis] = (group, writes)

    def rules(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Rule]:
        """The rules of all tensors that hold units which may move."""
        names: dict[int, str] = {}
        for (name, _), (group, writes) in self._axes.items():
            if writes:
                names.setdefault(self.root(group), name.rpartition(".")[0] or name)
        found: dict[str, Rule] = {}
        for (name, axis), (group, writes) in self._axes.items():
            root = self.root(group)
            if root and root in names:
                arrow = "" if writes == (axis == 0) else "->" if writes else "<-"
                rule = found.setdefault(name, [None] * len(shapes[name]))
                rule[axis] = arrow + names[root]
        ordered = {name: found[name] for name in shapes if name in found}
        return {name: rule[: 1 + max(i for i, r in enumerate(rule) if r)] if len(rule) > 2 else rule
                for name, rule in ordered.items()}  # fmt: skip


def unit_rules(module: nn.Module) -> dict[str, Rule]:
    """Rules for :class:`~plait.merging.zipit.Zipit` and its like, by the names of its state.

    Raises ``ValueError`` for a module that cannot be traced.
    """
    try:
        graph = fx.symbolic_trace(module).graph
    except Exception as error:  # a tracer meets whatever the module's code raises
        raise ValueError(
            f"{type(module).__name__} cannot be traced ({error}); write its rules by hand"
        ) from error
    groups, values = Groups(), dict[fx.Node, Value]()
    modules = dict(module.named_modules())
    for node in graph.nodes:
        values[node] = _value(node, values, modules, groups)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    return groups.rules(shapes)


def _value(
    node: fx.Node, values: Mapping[fx.Node, Value], modules: Mapping[str, nn.Module], groups: Groups
) -> Value:
    """The units of what a node gives; those of its inputs stay put where it is not known."""
    given = [values[one] for one in node.all_input_nodes]
    found: Value | None = None
    if node.op == "call_module" and len(given) == 1:
        found = _through(str(node.target), modules[str(node.target)], given[0], groups)
    elif node.op in ("call_function", "call_method"):
        found = _called(node, given, groups)
    if found is None:
        for one in given:
            groups.join(one.group, 0)
        return Value(0, last=True)
    return found


def _through(name: str, layer: nn.Module, given: Value, groups: Groups) -> Value | None:
    """Units through a layer."""
    match layer:
        case nn.Linear() if given.last or not groups.root(given.group):
            return _fed(name, layer, given.group, groups, last=True)
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d() if not given.last or not given.group:
            if layer.groups == layer.in_channels == layer.out_channels:
                _held(name, layer, given.group, groups)
                return Value(given.group, last=False)
            return _fed(name, layer, given.group, groups, last=False) if layer.groups == 1 else None
        case nn.ConvTranspose1d() | nn.ConvTranspose2d() | nn.ConvTranspose3d():
            if layer.groups != 1 or (given.last and given.group):
                return None
            return _fed(name, layer, given.group, groups, last=False, turned=True)
        case nn.Embedding():
            group = groups.new()
            groups.hold(f"{name}.weight", 1, group, writes=True)
            return Value(group, last=True)
        case nn.LayerNorm() | nn.RMSNorm() if not given.last or len(layer.normalized_shape) > 1:
            return None
        case _ if isinstance(layer, _NORMS):
            if not (isinstance(layer, nn.PReLU) and layer.num_parameters == 1):
                _held(name, layer, given.group, groups)
            return given
        case nn.Flatten() if layer.start_dim == 1 and layer.end_dim == -1:
            return Value(given.group, last=True)
        case _ if isinstance(layer, _SAME):
            return given
        case _ if isinstance(layer, _POOLS) and not given.last:
            return given
    return None


def _fed(
    name: str, layer: nn.Module, group: int, groups: Groups, *, last: bool, turned: bool = False
) -> Value:
    """Units of a layer that reads one group and writes another."""
    out = groups.new()
    groups.hold(f"{name}.weight", int(not turned), group, writes=False)
    groups.hold(f"{name}.weight", int(turned), out, writes=True)
    if isinstance(layer.bias, Tensor):
        groups.hold(f"{name}.bias", 0, out, writes=True)
    return Value(out, last=last)


def _held(name: str, layer: nn.Module, group: int, groups: Groups) -> None:
    """Note a layer whose tensors have one entry, or one filter, for each unit."""
    for own, tensor in layer.state_dict().items():
        if tensor.ndim:
            groups.hold(f"{name}.{own}", 0, group, writes=True)


def _called(node: fx.Node, given: list[Value], groups: Groups) -> Value | None:
    """Units through a function or a method."""
    target = node.target
    if target in _JOINS and len({one.last for one in given if one.group}) < 2:
        group = given[0].group
        for one in given[1:]:
            group = groups.join(group, one.group)
        return Value(group, last=any(one.last for one in given if one.group))
    if len(given) != 1:
        return None
    (value,) = given
    rest = _arguments(node)
    if target in _SAME_CALLS or (target in _POOL_CALLS and not value.last):
        return value
    if target in _FLATTENS and rest(0, "start_dim", 0) == 1 and rest(1, "end_dim", -1) == -1:
        return Value(value.group, last=True)
    if target in (torch.mean, "mean") and not value.last and not rest(1, "keepdim", False):
        dims = rest(0, "dim", None)
        if dims in ([2, 3], (2, 3), [-2, -1], (-2, -1), [-1, -2], (-1, -2)):
            return Value(value.group, last=True)
    return None


def _arguments(node: fx.Node) -> Callable[[int, str, Any], Any]:
    """Arguments after the first, by place or name."""

    def rest(place: int, name: str, default: Any) -> Any:
        return (
            node.args[place + 1] if len(node.args) > place + 1 else node.kwargs.get(name, default)
        )

    return rest
