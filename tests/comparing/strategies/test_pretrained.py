"""Strategies on a pretrained text encoder: frozen, tuned, adapted, merged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import plait
from plait.comparing import Progress, Study

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

pytestmark = pytest.mark.slow

WORDS = [f"w{i}" for i in range(30)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny transformer and its tokenizer under ``model``."""
    folder = tmp_path_factory.mktemp("pretrained")
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3}
    vocabulary |= {word: number for number, word in enumerate(WORDS, 4)}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder / "model")
    tokenizer.save(str(folder / "model" / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    numbers = np.random.default_rng(0)
    texts = [" ".join(numbers.choice(WORDS, 6)) for _ in range(200)]
    frame = pl.DataFrame(
        {
            "text": texts,
            "a": [int("w1 " in text or "w2 " in text) for text in texts],
            "b": [int("w3 " in text or "w4 " in text) for text in texts],
        }
    )
    return plait.compare(
        frame,
        targets=["a", "b"],
        strategies={
            "joint": "joint",
            "tuned": {"joint": {"freeze": False}},
            "adapted": {"adapt": "lora"},
            "merged": {"merge": {"average": {}, "start": "pretrained"}},
        },
        encoder={"text": {"transformer": {"pretrained": "model"}}},
        training={"passes": 2},
        seeds=1,
        base=folder,
        out=folder / "run",
        progress=Progress(),
    )


def test_all_ways_work(study: Study) -> None:
    assert study.failures() == []


def test_frozen_weights_and_features_are_kept_once(study: Study) -> None:
    shared = list((study.folder / "frozen").iterdir())
    assert 1 <= len(shared) <= 2  # the encoder, and the adapters' start with its trained trunk
    assert len(list((study.folder / "features").iterdir())) == 1
    cost = {row.strategy: row.cost.parameters for row in study.results.standings}
    assert cost["separate"] < 2 * cost["joint"]


def test_models_need_neither_the_run_nor_the_pretrained_folder(
    study: Study, tmp_path: Path, folder: Path
) -> None:
    rows = pl.DataFrame({"text": ["w1 w5 w3 w9", "w8 w8"]})
    found = {}
    for label in study.strategies:
        predictor = study.best(label)
        found[label] = predictor.predict(rows)
        predictor.save(tmp_path / label)
    hidden = folder.rename(tmp_path / "gone")
    try:
        for label, before in found.items():
            assert plait.load(tmp_path / label).predict(rows).equals(before)
    finally:
        hidden.rename(folder)
