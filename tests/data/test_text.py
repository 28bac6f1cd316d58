from __future__ import annotations

import json
import os

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.data import DataError
from plait.data.text import Bag, Tokens, fingerprints

GOLDEN_BAG = [68, 224, 509]
GOLDEN_TEXTS = [4824385676517010403, 11345401073669544565, 16294208416658607535]


def bags(bag, texts):
    lengths, values = bag.encode([pl.Series(texts, dtype=pl.String)])
    return [set(piece.tolist()) for piece in np.split(values, np.cumsum(lengths)[:-1])]


def test_hashes_are_the_same_in_every_process_and_version():
    assert sorted(bags(Bag(buckets=1000), ["the café"])[0]) == GOLDEN_BAG
    assert fingerprints(pl.Series(["a", "ab", ""])).tolist() == GOLDEN_TEXTS


def test_prose_is_words_pairs_and_characters():
    one, two, both = bags(Bag(), ["good", "film", "good film"])
    assert one < both
    assert two < both
    assert len(both) == len(one) + len(two) + 1  # and the pair
    first, other = bags(Bag(), ["film good", "good film"])
    assert first != other
    shouted = bags(Bag(), ["GOOD film"])[0]
    assert shouted == both


def test_parts_of_words_are_shared_by_their_forms():
    one, two, three = bags(Bag(), ["unbelievable", "unbelievably", "zzzzzzzzzzzz"])
    assert len(one & two) >= 6
    assert not one & three


def test_signs_stand_alone_and_other_scripts_are_words():
    one, two = bags(Bag(), ["good!", "good"])
    assert two < one
    assert bags(Bag(), ["naïve café"]) == bags(Bag(), ["nai\u0308ve cafe\u0301"])
    assert len(bags(Bag(), ["добрый день"])[0]) > 3


def test_plain_strings_keep_their_case_and_order():
    bag = Bag(prose=False, characters=(1, 3))
    ring, chain, other = bags(bag, ["c1ccccc1", "C1CCCCC1", "CCO"])
    assert not ring & chain - bags(bag, ["1"])[0]
    assert len(other) == 5  # C O, CC CO, CCO


def test_the_longest_texts_keep_their_words_first():
    text = " ".join(f"word{i}" for i in range(50))
    bag = Bag(most=50)
    words = set().union(*bags(Bag(characters=(9, 9)), [f"word{i}" for i in range(50)]))
    assert bags(bag, [text])[0] == words


def test_empty_and_missing_texts_have_no_tokens():
    lengths, values = Bag().encode([pl.Series(["", None, "a", "  "])])
    assert lengths.tolist() == [0, 0, 1, 0]
    assert len(values) == 1
    assert Bag(prose=False).encode([pl.Series(["", None])])[0].tolist() == [0, 0]


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=6), prose=st.booleans())
def test_a_text_has_the_same_tokens_whatever_stands_beside_it(texts, prose):
    bag = Bag(prose=prose, buckets=97, characters=(2, 3))
    together = bags(bag, texts)
    assert together == [bags(bag, [text])[0] for text in texts]
    assert all(0 < token <= 97 for found in together for token in found)


def test_pieces_do_not_change_the_tokens(monkeypatch):
    texts = [f"text number {i} of many" for i in range(40)]
    whole = bags(Bag(), texts)
    monkeypatch.setattr("plait.data.text.PIECE", 30)
    assert bags(Bag(), texts) == whole


@pytest.fixture
def pretrained(tmp_path):
    """The folder of a tokenizer of whole words, with marks around texts and pairs."""
    library = pytest.importorskip("tokenizers")
    words = ["[UNK]", "[CLS]", "[SEP]", "a", "good", "film", "yes", "x"]
    tokenizer = library.Tokenizer(
        library.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_tokens_are_those_of_the_tokenizer_shifted_by_one(pretrained):
    tokens = Tokens.fit({"pretrained": ".", "max_length": 6, "pooling": "mean"}, pretrained)
    lengths, values = tokens.encode([pl.Series(["a good film", "x " * 50, None])])
    assert lengths.tolist() == [5, 6, 2]
    assert (values - 1).tolist() == [1, 3, 4, 5, 2, 1, 7, 7, 7, 7, 2, 1, 2]
    assert tokens.size == 9


def test_where_a_tokenizer_was_found_does_not_matter(pretrained):
    """A study opened from another folder names the same encoder by another path."""
    here, there = (Tokens.fit({"pretrained": p}, pretrained) for p in (".", str(pretrained)))
    assert here == there


def test_pairs_are_told_apart_by_the_tokenizer(pretrained):
    tokens = Tokens.fit({"pretrained": str(pretrained)}, None)
    lengths, values = tokens.encode([pl.Series(["a film"]), pl.Series(["yes"])])
    assert (values - 1).tolist() == [1, 3, 5, 2, 6, 2]
    assert lengths.tolist() == [6]


def test_a_saved_tokenizer_needs_no_folder(pretrained):
    tokens = Tokens.fit({"pretrained": str(pretrained)}, None)
    text = [pl.Series(["a good film"])]
    before = tokens.encode(text)[1].tolist()
    (pretrained / "tokenizer.json").unlink()
    back = Tokens.from_json(json.loads(json.dumps(tokens.to_json())))
    assert back.encode(text)[1].tolist() == before


def test_a_tokenizer_that_is_not_there_is_one_clear_error():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(DataError, match="no tokenizer in 'nobody/nothing'"):
        Tokens.fit({"pretrained": "nobody/nothing"}, None)
    with pytest.raises(DataError, match="transformer needs pretrained"):
        Tokens.fit({}, None)
