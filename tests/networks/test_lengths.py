from __future__ import annotations

import itertools

import pytest
import torch

from plait.networks import lengths
from plait.networks.lengths import by_length


def texts(*sizes, longest=None):
    found = torch.zeros(len(sizes), longest or max(sizes), dtype=torch.long)
    for row, size in enumerate(sizes):
        found[row, :size] = 1 + torch.arange(size)
    return found


def cost(pieces, start):
    return sum(len(rows) * longest + start for rows, longest in pieces)


def cheapest_of_all(sizes, start):
    """The least cost over every way to cut the ascending sizes."""
    sizes = sorted(sizes)
    found = []
    for cuts in itertools.product((False, True), repeat=len(sizes) - 1):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [len(sizes)]
        begins = [0, *ends[:-1]]
        found.append(sum((e - b) * sizes[e - 1] + start for b, e in zip(begins, ends, strict=True)))
    return min(found)


@pytest.mark.parametrize("start", [0, 5, 20, 1000])
def test_the_cuts_are_the_cheapest_there_are(start, monkeypatch):
    monkeypatch.setattr(lengths, "CPU", (start, 2**13))
    generator = torch.Generator().manual_seed(start)
    for _ in range(20):
        sizes = torch.randint(1, 30, (9,), generator=generator).tolist()
        if sum(sizes) > start:
            assert cost(by_length(texts(*sizes, longest=40)), start) == cheapest_of_all(
                sizes, start
            )


def test_every_row_is_in_one_piece_with_all_its_tokens(monkeypatch):
    monkeypatch.setattr(lengths, "CPU", (3, 24))
    sizes = [9, 2, 2, 17, 3, 9, 1, 2, 17, 2]
    value = texts(*sizes)
    value[4, 1] = 0  # padding inside a text cuts nothing off
    pieces = by_length(value)
    assert sorted(torch.cat([rows for rows, _ in pieces]).tolist()) == list(range(10))
    for rows, longest in pieces:
        assert not value[rows, longest:].any()
        assert len(rows) == 1 or len(rows) * longest <= 24
    assert len(pieces) > 4


def test_empty_texts_and_no_rows_are_one_piece():
    ((rows, longest),) = by_length(torch.zeros(200, 9, dtype=torch.long))
    assert (len(rows), longest) == (200, 1)
    ((rows, longest),) = by_length(torch.zeros(0, 9, dtype=torch.long))
    assert (len(rows), longest) == (0, 9)


def test_few_tokens_are_run_at_once():
    ((rows, longest),) = by_length(texts(1, 9, 3))
    assert (rows.tolist(), longest) == ([0, 1, 2], 9)
