"""The kind ``tokens``: a class for each token of a sequence, such as parts of speech or entities.

Classes named ``B-…`` and ``I-…`` (also ``E-…`` and ``S-…``) mark spans: a span begins at ``B``,
``S``, or at an ``I`` or ``E`` that continues none of its type, and ends before the next beginning
or other class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plait.kinds.base import Array, Kind, tallied
from plait.kinds.rows import class_surprise, each, log_shares, shares


def confusion(row: Array, true: Array, decided: Array, rows: int, classes: int) -> Array:
    """For each row how often each class is true, decided, and both: [rows, 3·classes]."""
    parts = [
        np.bincount(row[keep] * classes + of[keep], minlength=rows * classes).reshape(rows, -1)
        for of, keep in (
            (true, slice(None)), (decided, slice(None)), (true, np.flatnonzero(true == decided)),
        )
    ]  # fmt: skip
    return np.concatenate(parts, axis=1).astype(np.float64)


def tally(truth: Array, valid: Array, prediction: Array, classes: Sequence[str]) -> Array:
    """Tokens, loss, true, decided and right ones of each class, true, found and right spans.

    ``truth`` and ``valid`` [n, L], ``prediction`` [n, L, C]; gives [n, 2 + 3·C + 3].
    """
    row, _ = np.nonzero(valid)
    true, found = truth[valid].astype(np.intp), prediction[valid].astype(np.float64)
    decided = found.argmax(1) if len(found) else true
    n, count = len(truth), len(classes)
    losses = np.bincount(row, class_surprise(true, found), minlength=n)
    spans = [_spans(row, codes, classes) for codes in (true, decided)]
    right = np.intersect1d(spans[0], spans[1])
    each_row = [np.bincount(some // _FAR, minlength=n)[:n] for some in (*spans, right)]
    return np.column_stack(
        [np.bincount(row, minlength=n), losses, confusion(row, true, decided, n, count), *each_row]
    )


_FAR = 2**46  # a span is told by its row, its first token, its length and its class


def _spans(row: Array, codes: Array, classes: Sequence[str]) -> Array:
    """One number for each span of the tokens, whose rows and classes are given."""
    if len(codes) == 0:
        return np.zeros(0, np.int64)
    marks = np.array([name[0] if name[:2] in _MARKS else "" for name in classes])[codes]
    kinds = np.array([name[2:] if name[:2] in _MARKS else "" for name in classes])
    kind = np.unique(kinds, return_inverse=True)[1][codes]
    inside = marks != ""
    follows = np.zeros(len(codes), bool)
    follows[1:] = (
        inside[1:] & inside[:-1] & (row[1:] == row[:-1]) & (kind[1:] == kind[:-1])
        & np.isin(marks[1:], ("I", "E")) & np.isin(marks[:-1], ("B", "I"))
    )  # fmt: skip
    starts = np.flatnonzero(inside & ~follows)
    # A span reaches to the last token that follows without a break.
    ends = np.flatnonzero(inside & ~np.append(follows[1:], False)) + 1
    first = starts - np.searchsorted(row, row[starts])
    told = (first * 2**15 + (ends - starts)) * 2**11 + kind[starts]
    found: Array = row[starts].astype(np.int64) * _FAR + told
    return found


_MARKS = ("B-", "I-", "E-", "S-")

TOKENS = Kind(
    name="tokens", loss="cross_entropy",
    metrics=("token_macro_f1", "token_accuracy", "span_f1"),
    outputs=each, prior=shares, bias=log_shares, judge=tallied,
    place="token", tally=tally, labelled=True, named=True, whole=True,
    hints=("token", "tagging", "ner", "pos", "sequence_labelling", "token_classification"),
)  # fmt: skip
