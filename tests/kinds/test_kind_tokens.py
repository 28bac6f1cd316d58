from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as sk

from plait.kinds import KINDS
from plait.metrics import METRICS, Undefined

CLASSES = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O", "S-LOC", "E-LOC")


def tags(rows=40, seed=0):
    random = np.random.default_rng(seed)
    truth = random.integers(0, len(CLASSES), (rows, 9))
    valid = np.arange(9) < random.integers(0, 10, rows)[:, None]
    shares = random.random((rows, 9, len(CLASSES))) + np.eye(len(CLASSES))[truth]
    return truth, valid, shares / shares.sum(-1, keepdims=True)


def told(truth, valid, shares, classes=CLASSES):
    return KINDS["tokens"].tally(truth, valid, shares, classes)


def score(name, tally, weight=None):
    return METRICS[name].score(np.zeros(len(tally)), tally, weight)


def spans(names):
    """By the rules of the shared tasks on chunking, token by token."""
    found, begin, kind = set(), None, None
    for at, name in enumerate([*names, "O"]):
        mark, _, own = name.partition("-")
        continues = begin is not None and mark in ("I", "E") and own == kind
        if continues and names[at - 1][0] not in ("E", "S"):
            continue
        if begin is not None:
            found.add((begin, at, kind))
        begin, kind = (at, own) if mark != "O" else (None, None)
    return found


def test_spans_are_those_read_token_by_token():
    truth, valid, shares = tags()
    right = true = decided = 0
    for one, there, share in zip(truth, valid, shares, strict=True):
        mine = spans([CLASSES[code] for code in one[there]])
        given = spans([CLASSES[code] for code in share[there].argmax(1)])
        right, true, decided = right + len(mine & given), true + len(mine), decided + len(given)
    expected = 2 * right / (true + decided)
    assert score("span_f1", told(truth, valid, shares)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("token_accuracy", sk.accuracy_score),
        ("token_macro_f1", lambda y, p, **w: sk.f1_score(y, p, average="macro", **w)),
    ],
)
def test_scores_of_tokens_are_those_of_all_tokens_together(name, oracle):
    truth, valid, shares = tags()
    weight = np.random.default_rng(1).random(len(truth))
    every = np.repeat(weight, valid.sum(1))
    expected = oracle(truth[valid], shares[valid].argmax(1), sample_weight=every)
    assert score(name, told(truth, valid, shares), weight) == pytest.approx(expected, abs=1e-12)


def test_the_loss_of_a_row_is_the_mean_over_its_tokens():
    truth, valid, shares = tags()
    tally = told(truth, valid, shares)
    losses = KINDS["tokens"].judge(np.zeros(len(tally)), tally)
    some = valid.any(1)
    own = [
        -np.log(share[there][np.arange(there.sum()), one[there]]).mean()
        for one, there, share in zip(truth[some], valid[some], shares[some], strict=True)
    ]
    np.testing.assert_allclose(losses[some], own)


def test_without_spans_and_without_tokens_scores_are_undefined():
    truth, valid, shares = tags()
    plain = tuple(f"class {i}" for i in range(len(CLASSES)))
    assert isinstance(score("span_f1", told(truth, valid, shares, plain)), Undefined)
    nothing = told(truth, np.zeros_like(valid), shares)
    for name in KINDS["tokens"].metrics:
        assert isinstance(score(name, nothing), Undefined)
