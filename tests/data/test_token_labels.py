from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from plait.data import DataError, DataSpec, SplitSpec, TableSpec, TaskSpec, load

WORDS = [["a", "b", "c"], ["b"], [], ["a", "new"], ["c", "c", "a", "b"]] * 4
TAGS = [["X", None, "Y"], ["Y"], [], ["Y", "X"], ["X", "X", "Y", None]] * 4


def frame(words=WORDS, tags=TAGS, **more):
    split = ["train"] * 12 + ["valid"] * 4 + ["test"] * 4
    return pl.DataFrame({"words": words, "tags": tags, "split": split, **more})


def loaded(table, task=None, types=None):
    spec = TableSpec(source=table, types={"words": "sequence"} if types is None else types)
    return load(DataSpec(tables={"t": spec}), {"tags": task or TaskSpec()})


def test_lists_of_words_are_labelled_word_by_word():
    data = loaded(frame())
    assert (data.tasks["tags"].kind, data.tasks["tags"].classes) == ("tokens", ("X", "Y"))
    rows = data.rows("train")
    assert 2 not in rows.tolist()  # no token, no label
    labels = data.batch(rows).task("tags")
    for row, target, valid in zip(rows.tolist(), labels.target, labels.valid, strict=True):
        told = [None if tag is None else "XY".index(tag) for tag in TAGS[row]]
        kept = [int(t) if v else None for t, v in zip(target, valid, strict=True)]
        longest = max(len(told), len(kept))
        assert _filled(kept, longest) == _filled(told, longest)


def _filled(values, longest):
    return [*values, *[None] * (longest - len(values))]


def test_words_keep_their_order():
    words = [["a", "b", "a"], ["b", "a", "a"]] * 10
    data = loaded(frame(words, [["X", "Y", "X"]] * 20))
    batch = data.batch(data.rows("train"))
    found = batch.parts["sequence.words"]["sequence.words"].tolist()
    number = {"a": found[0][0], "b": found[0][1]}
    assert sorted(number.values()) == [2, 3]
    assert found == [[number[word] for word in words[row]] for row in batch.ids.tolist()]


def test_an_item_that_no_training_row_has_is_number_one():
    words = [*[["a", "b"]] * 12, *[["a", "other"]] * 8]
    data = loaded(frame(words, [["X", "Y"]] * 20))
    found = data.batch(data.rows("test")).parts["sequence.words"]["sequence.words"]
    assert found[:, 1].tolist() == [1] * 4
    assert (found[:, 0] > 1).all()


def test_words_and_labels_may_be_text_with_blanks():
    text = [" ".join(words) for words in WORDS]
    tags = [" ".join(tag or "_" for tag in own) for own in TAGS]
    data = loaded(frame(text, tags), TaskSpec(kind="ner", missing=["_"]))
    other = loaded(frame())
    for split in ("train", "test"):
        one, two = (each.batch(each.rows(split)).task("tags") for each in (data, other))
        assert (one.target == two.target).all()
        assert (one.valid == two.valid).all()


def test_a_row_with_more_labels_than_words_is_named():
    tags = [list(own) for own in TAGS]
    tags[4] = [*tags[4], "X"]
    with pytest.raises(DataError, match=r"row 5: task 'tags': 'tags' has 5 labels for 4 tokens"):
        loaded(frame(tags=tags))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"types": {}}, "it has none: declare types: {COLUMN: sequence}"),
        ({"task": TaskSpec(kind="tokens", after="tags")}, "tags"),
        ({"task": TaskSpec(metrics=["auroc"])}, "metric 'auroc' does not fit kind 'tokens'"),
        ({"task": TaskSpec(classes=["X", "Z"])}, "'Y', which is not among its classes"),
    ],
)
def test_what_does_not_fit_is_refused(change, said):
    with pytest.raises(DataError, match=said):
        loaded(frame(), **change)


def test_fractions_are_no_items():
    with pytest.raises(DataError, match="holds fractions"):
        loaded(frame(words=[[0.5, 1.5]] * 20, tags=[["X", "Y"]] * 20))


def test_long_sequences_keep_their_last_items(monkeypatch):
    monkeypatch.setattr("plait.data.sequences.LONGEST", 3)
    monkeypatch.setattr("plait.data.sequences.last.__defaults__", (3,))
    data = loaded(frame())
    batch = data.batch(data.rows("train"))
    assert batch.parts["sequence.words"]["sequence.words"].shape[1] == 3
    labels = batch.task("tags")
    row = batch.ids.tolist().index(4)
    assert labels.target[row].tolist()[:2] == [0, 1]  # X, Y of X X Y _
    assert labels.valid[row].tolist() == [True, True, False]


def test_weights_stand_beside_rows():
    data = loaded(frame(w=np.arange(20) / 4), TaskSpec(weight="w"))
    labels = data.batch(data.rows("train")).task("tags")
    count = labels.valid.sum(1)
    assert labels.units.tolist() == pytest.approx((count * data.rows("train") / 4).tolist())


def test_a_split_may_be_random():
    table = frame().drop("split")
    split = SplitSpec(fractions=(0.6, 0.2, 0.2))
    spec = TableSpec(source=table, types={"words": "sequence"})
    data = load(DataSpec(tables={"t": spec}, split=split), {"tags": TaskSpec()})
    assert sum(data.counts(part)["tags"] for part in ("train", "valid", "test")) == 16
