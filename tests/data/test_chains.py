from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from plait.data import DataError, DataSpec, SplitSpec, TableSpec, TaskSpec, load

CHAIN = {
    "click": TaskSpec(kind="binary"),
    "cart": TaskSpec(kind="binary", after="click"),
    "buy": TaskSpec(kind="binary", after="cart", weight="price"),
}


def table(rows=60):
    random = np.random.default_rng(0)
    click = random.integers(0, 2, rows)
    cart = np.where(click == 1, random.integers(0, 2, rows), -1)
    buy = np.where(cart == 1, random.integers(0, 2, rows), -1)
    return pl.DataFrame(
        {
            "x": random.normal(size=rows),
            "price": np.arange(rows) / 10,
            "click": click,
            "cart": pl.Series(cart).replace(-1, None),
            "buy": pl.Series(buy).replace(-1, None),
        }
    )


def loaded(frame, tasks=CHAIN):
    split = SplitSpec(fractions=(0.6, 0.2, 0.2))
    return load(DataSpec(tables={"t": TableSpec(source=frame)}, split=split), tasks)


def test_rows_that_end_early_in_the_chain_are_negative_further_on():
    frame = table()
    data = loaded(frame)
    for name in ("cart", "buy"):
        found = {}
        for split in ("train", "valid", "test"):
            labels = data.labels(name, split)
            found |= dict(zip(labels.rows.tolist(), labels.target.tolist(), strict=True))
        assert found == dict(enumerate(frame[name].fill_null(0).cast(float)))
    assert any("rows without click count as negative" in fact for fact in data.facts)


def test_negatives_that_were_added_have_their_rows_weights():
    labels = loaded(table()).labels("buy", "train")
    assert labels.weight.tolist() == pytest.approx((labels.rows / 10).tolist())


def test_a_label_missing_after_a_positive_stays_missing():
    frame = table().with_columns(buy=pl.when(pl.col("cart") == 1).then(pl.col("buy")))
    at = int(frame["cart"].eq(1).arg_max())
    hidden = frame.with_columns(
        buy=pl.when(pl.int_range(len(frame)) == at).then(None).otherwise(pl.col("buy"))
    )
    data = loaded(hidden)
    rows = [row for split in ("train", "valid", "test") for row in data.rows(split, "buy").tolist()]
    assert sorted(rows) == [row for row in range(len(frame)) if row != at]


def test_a_purchase_without_a_click_is_refused_with_its_row():
    frame = table()
    at = int(frame["click"].eq(0).arg_max())
    wrong = frame.with_columns(
        cart=pl.when(pl.int_range(len(frame)) == at).then(1).otherwise(pl.col("cart"))
    )
    with pytest.raises(DataError, match=rf"row {at + 1}: task 'cart' is positive, but 'click'"):
        loaded(wrong)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cart": TaskSpec(kind="binary", after="clik")}, "no task 'clik'; did you mean 'click'"),
        ({"click": TaskSpec(kind="binary", after="buy")}, "comes after itself"),
        ({"click": TaskSpec(target="price", kind="real")}, "'click' is real"),
        ({"cart": TaskSpec(target="x", kind="real", after="click")}, "only binary tasks"),
        ({"click": TaskSpec(columns="clic*")}, "'click' is several tasks"),
        ({"cart": TaskSpec(after="click", repeats="first")}, "remove repeats"),
    ],
)
def test_chains_that_cannot_be_are_refused(changes, said):
    with pytest.raises(DataError, match=said):
        loaded(table(), {**CHAIN, **changes})
