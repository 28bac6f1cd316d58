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
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from plait.method import did_you_mean


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
    """The sites whose path matches a glob pattern and whose module is of a type, in order.

    A pattern matches the whole path or its end after a dot: ``query`` finds every ``….query``.
    Raises ``ValueError`` with the nearest paths for a pattern that matches nothing of these types.
    """
    found = {
        path: module
        for path, module in root.named_modules()
        if path and (types is None or isinstance(module, types))
    }
    wanted = [patterns] if isinstance(patterns, str) else patterns
    if wanted is None:
        return [ModuleSite(root, path) for path in found]
    chosen = set()
    for pattern in wanted:
        matched = [path for path in found if _matches(path, pattern)]
        if not matched:
            kinds = f" of type {', '.join(t.__name__ for t in types)}" if types else ""
            hint = _nearest(pattern, list(found))
            raise ValueError(f"no module{kinds} matches {pattern!r}{hint}")
        chosen.update(matched)
    return [ModuleSite(root, path) for path in found if path in chosen]


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"*.{pattern}")


def _nearest(pattern: str, paths: list[str]) -> str:
    plain = pattern.replace("*", "").strip(".")
    close = difflib.get_close_matches(plain, paths, n=3, cutoff=0.6)
    if close:
        return f"; nearest: {', '.join(close)}"
    return did_you_mean(plain, {path.rpartition(".")[2] for path in paths})
