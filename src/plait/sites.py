"""Module sites: name a place in any network, and replace or wrap what stands there::

>>> from torch import nn
>>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
>>> [site.path for site in module_sites(net, types=(nn.Linear,))]
['0', '2']
>>> site = module_sites(net, "2")[0]
>>> site.replace(lambda linear: nn.Sequential(linear, nn.Tanh()))
Sequential(
  (0): Linear(in_features=3, out_features=1, bias=True)
  (1): Tanh()
)
>>> site.undo()
>>> net[2]
Linear(in_features=3, out_features=1, bias=True)

A role in angle brackets names modules by what they do, whatever their library calls them (see
:data:`ROLES`)::

>>> [site.path for site in module_sites(net, "<linear>")]
['0', '2']
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from plait.method import did_you_mean

# Roles by what the common libraries call a transformer's parts: expressions on the end of a path.
# ``inner`` and ``outer`` are the first and last matrices of the feed-forward part; the norms are
# those after a sum, so blocks that normalise first have none.
NAMED: Mapping[str, str] = {
    "query": r"query|q_proj|q_lin|query_proj|(SelfAttention|attn)\.q",
    "key": r"key|k_proj|k_lin|key_proj|(SelfAttention|attn)\.k",
    "value": r"value|v_proj|v_lin|value_proj|(SelfAttention|attn)\.v",
    "attention_output": r"attention\.output\.dense|o_proj|out_proj|out_lin|(SelfAttention|attn)\.o",
    "inner": r"intermediate\.dense|fc1|lin1|up_proj|gate_proj|wi|wi_0|wi_1",
    "outer": r"\d+\.output\.dense|fc2|lin2|down_proj|wo",
    "attention_norm": r"attention\.output\.LayerNorm|attention\.LayerNorm|sa_layer_norm",
    "outer_norm": r"\d+\.output\.LayerNorm|output_layer_norm",
}
TYPED: Mapping[str, Callable[[nn.Module], bool]] = {
    "linear": lambda module: isinstance(module, nn.Linear),
    "convolution": lambda module: isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d),
    "embedding": lambda module: isinstance(module, nn.Embedding),
    "norm": lambda module: type(module).__name__.endswith(("Norm", "Norm1d", "Norm2d")),
}
# ``block``: what stands in a list of modules and has attention inside.
ROLES = (*NAMED, *TYPED, "block")


class ModuleSite:
    """A place in a network: the dotted ``path`` to a module below ``root``.

    A module that is used at several paths has one site, and is replaced at all of them.
    """

    def __init__(self, root: nn.Module, path: str) -> None:
        self.root = root
        self.path = path
        self._original: nn.Module | None = None

    def __repr__(self) -> str:
        return f"ModuleSite({self.path!r}: {type(self.module).__name__})"

    @property
    def module(self) -> nn.Module:
        """What stands there now."""
        return self.root.get_submodule(self.path)

    @property
    def tensors(self) -> Mapping[str, nn.Parameter]:
        """The parameters beneath, by name."""
        return dict(self.module.named_parameters())

    @property
    def depth(self) -> int | None:
        """The number of the block the site lies in: the first number in its path, or None."""
        return next((int(piece) for piece in self.path.split(".") if piece.isdigit()), None)

    def replace(self, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
        """Put ``make(what stands there)`` in its place and return it.

        Raises ``ValueError`` for a site that is already replaced.
        """
        if self._original is not None:
            raise ValueError(f"{self.path} is already replaced; undo it first")
        original = self.module
        new = make(original)
        self._put(original, new)
        self._original = original
        return new

    def undo(self) -> None:
        """Put back what stood there before; ``ValueError`` where nothing was replaced."""
        if self._original is None:
            raise ValueError(f"{self.path} was not replaced")
        self._put(self.module, self._original)
        self._original = None

    def _put(self, old: nn.Module, new: nn.Module) -> None:
        for parent in list(self.root.modules()):  # listed first: a wrapper keeps what it wraps
            for name, child in list(parent.named_children()):
                if child is old:
                    setattr(parent, name, new)


def module_sites(
    root: nn.Module,
    patterns: str | Sequence[str] | None = None,
    types: tuple[type[nn.Module], ...] | None = None,
) -> list[ModuleSite]:
    """The sites whose path matches a pattern and whose module is of a type, in order.

    A glob pattern matches the whole path or its end after a dot (``query`` finds every
    ``….query``), a role in angle brackets what does that work. Raises ``ValueError`` with the
    nearest paths or roles for a pattern that matches nothing of these types.
    """
    every = {path: module for path, module in root.named_modules() if path}
    found = {p: m for p, m in every.items() if types is None or isinstance(m, types)}
    wanted = [patterns] if isinstance(patterns, str) else patterns
    if wanted is None:
        return [ModuleSite(root, path) for path in found]
    chosen = set()
    for pattern in wanted:
        matched = [path for path in _matched(every, pattern) if path in found]
        if not matched:
            kinds = f" of type {', '.join(t.__name__ for t in types)}" if types else ""
            hint = "" if _role(pattern) else _nearest(pattern, list(found))
            raise ValueError(f"no module{kinds} matches {pattern!r}{hint}")
        chosen.update(matched)
    return [ModuleSite(root, path) for path in found if path in chosen]


def role_sites(root: nn.Module, *roles: str) -> list[ModuleSite]:
    """The sites that have any of these roles, in order; empty where none has."""
    found = {path: module for path, module in root.named_modules() if path}
    chosen = {path for role in roles for path in _matched(found, f"<{role}>")}
    return [ModuleSite(root, path) for path in found if path in chosen]


def has_role(path: str, role: str) -> bool:
    """Whether a path ends as those of a role that goes by name; ``ValueError`` for another."""
    if role not in NAMED:
        raise ValueError(f"no role {role!r} that goes by name{did_you_mean(role, NAMED)}")
    return re.fullmatch(rf"(.*\.)?({NAMED[role]})", path) is not None


def _role(pattern: str) -> str:
    """The role that a pattern names, or nothing; ``ValueError`` for one that does not exist."""
    if not (pattern.startswith("<") and pattern.endswith(">")):
        return ""
    role = pattern[1:-1]
    if role not in ROLES:
        raise ValueError(f"no role {pattern!r} for a module{did_you_mean(role, ROLES)}")
    return role


def _matched(found: Mapping[str, nn.Module], pattern: str) -> list[str]:
    role = _role(pattern)
    if role in TYPED:
        return [path for path, module in found.items() if TYPED[role](module)]
    if role in NAMED:
        return [path for path in found if has_role(path, role)]
    if role == "block":
        return _blocks(found)
    return [p for p in found if fnmatchcase(p, pattern) or fnmatchcase(p, f"*.{pattern}")]


def _blocks(found: Mapping[str, nn.Module]) -> list[str]:
    """The outermost items of lists that have queries inside."""
    query = re.compile(rf"(?P<block>(?P<list>.*?)\.\d+)\.(.*\.)?({NAMED['query']})")
    blocks = dict.fromkeys(
        at["block"]
        for at in map(query.fullmatch, found)
        if at and isinstance(found.get(at["list"]), nn.ModuleList)
    )
    return list(blocks)


def _nearest(pattern: str, paths: list[str]) -> str:
    plain = pattern.replace("*", "").strip(".")
    close = difflib.get_close_matches(plain, paths, n=3, cutoff=0.6)
    if close:
        return f"; nearest: {', '.join(close)}"
    return did_you_mean(plain, {path.rpartition(".")[2] for path in paths})
