from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from exports import KINDS, compared, table

from plait.comparing import Study


@pytest.fixture(scope="session")
def exported_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every way to one model; tests only read it."""
    folder = tmp_path_factory.mktemp("exports") / "run"
    strategies = {
        "joint": "joint",
        "experts": {"joint": {"sharing": {"mmoe": {"experts": 2, "tower": 4}}}},
        "adapted": {"adapt": {"lora": {"rank": 2}}},
    }
    compared(table(), folder, KINDS, strategies=strategies)
    return folder


@pytest.fixture
def exported(exported_run: Path) -> Study:
    return Study.open(exported_run)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny transformer, and texts with two tasks."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("texts")
    words = [f"w{number}" for number in range(30)]
    known = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *words]
    vocabulary = {word: number for number, word in enumerate(known)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    config = transformers.BertConfig(
        vocab_size=len(known), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder / "model")
    tokenizer.save(str(folder / "model" / "tokenizer.json"))
    random = np.random.default_rng(0)
    rows = [" ".join(random.choice(words, random.integers(2, 9))) for _ in range(120)]
    pl.DataFrame(
        {
            "text": rows,
            "a": [int("w1 " in row or "w2 " in row) for row in rows],
            "b": [len(set(row.split())) + random.normal() for row in rows],
        }
    ).write_parquet(folder / "rows.parquet")
    return folder


@pytest.fixture(scope="session")
def text_run(texts: Path) -> Path:
    """A run on the transformer: frozen, adapted in one stage and in two, trained as a whole."""
    encoder = {
        "text": {"transformer": {"pretrained": str(texts / "model")}},
        "trunk": {"mlp": {"width": 8, "depth": 1, "norm": "layer"}},
    }
    frame = pl.read_parquet(texts / "rows.parquet")
    strategies = {
        "joint": "joint",
        "adapted": {"adapt": {"lora": {"rank": 2}}},
        "sparse": {"adapt": {"lori": {"rank": 2}}},
        "whole": {"adapt": "full"},
    }
    training = {"passes": 4, "learning_rate": 0.03}
    compared(
        frame, texts / "run", ["a", "b"], strategies=strategies, encoder=encoder, training=training
    )
    return texts / "run"


@pytest.fixture
def on_text(text_run: Path) -> Study:
    return Study.open(text_run)
