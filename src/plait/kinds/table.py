"""The kinds by name."""

from __future__ import annotations

from collections.abc import Mapping

from plait.kinds.base import Kind
from plait.kinds.pixels import PIXELS
from plait.kinds.rows import ROWS
from plait.kinds.tokens import TOKENS
from plait.method import did_you_mean

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (*ROWS, TOKENS, *PIXELS)}
LOSSES = tuple(dict.fromkeys(one for kind in KINDS.values() for one in (kind.loss, *kind.losses)))


def kind_of(word: str) -> Kind:
    """The kind a user's word stands for (``regression`` is ``real``).

    Raises ``ValueError`` with the nearest valid word.
    """
    plain = word.strip().lower().replace("-", "_").replace(" ", "_")
    for kind in KINDS.values():
        if plain == kind.name or plain in kind.hints:
            return kind
    if plain == "dense":
        several = ", ".join(kind.name for kind in PIXELS)
        raise ValueError(f"dense is not one kind; say which: {several}")
    raise ValueError(f"no kind {word!r}{did_you_mean(plain, KINDS)}")


def check_loss(name: str, kind: str) -> None:
    """Raise ``ValueError`` for a loss that there is not, and for one that trains other kinds."""
    if name not in LOSSES:
        raise ValueError(f"no loss {name!r}{did_you_mean(name, LOSSES)}")
    fits = (KINDS[kind].loss, *KINDS[kind].losses)
    if name not in fits:
        raise ValueError(f"loss {name!r} does not fit kind {kind!r}; it takes: {', '.join(fits)}")
