"""A model's folder is all that a model needs: moved, and read by another process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from studies import ENCODER, schools, table

import plait
from plait.comparing import Predictor, Progress

LOAD = """
import sys, polars, plait
place = sys.argv[1]
found = plait.load(place + "/moved").predict(polars.read_parquet(place + "/rows"))
found.write_parquet(place + "/found")
"""

OWN = """
import torch


class Mine(torch.nn.Module):
    def __init__(self, inputs, width=3):
        super().__init__()
        self.width = width
        self.layer = torch.nn.Linear(inputs["numeric"].width, width)

    def forward(self, parts):
        return torch.cat([self.layer(part["numeric"]).tanh() for part in parts.values()])
"""


def best(frame: Any, folder: Path, label: str, **given: Any) -> Predictor:
    settings: dict[str, Any] = {"encoder": ENCODER, "training": {"passes": 2}, **given}
    study = plait.compare(
        frame, strategies=["joint"], seeds=1, out=folder, progress=Progress(), **settings
    )
    assert study.failures() == []
    return study.best(label)


def check(predictor: Predictor, rows: pl.DataFrame, place: Path, **environment: str) -> None:
    """Saved, moved and read elsewhere: the same predictions to 1e-6."""
    predictor.save(place / "model")
    (place / "model").rename(place / "moved")
    rows.write_parquet(place / "rows")
    subprocess.run(
        [sys.executable, "-c", LOAD, str(place)], check=True, cwd=place,
        env={"PATH": "", "HF_HUB_OFFLINE": "1", **environment},
    )  # fmt: skip
    found = pl.read_parquet(place / "found")
    assert_frame_equal(found, predictor.predict(rows), abs_tol=1e-6, rel_tol=1e-6)


def test_many_networks_side_by_side(tmp_path: Path) -> None:
    predictor = best(
        schools(), tmp_path / "run", "separate",
        tasks={"exam": {"by": "school", "target": "score", "kind": "real"}},
    )  # fmt: skip
    shutil.rmtree(tmp_path / "run")
    check(predictor, schools().drop("score", "split"), tmp_path)


def test_a_module_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "package_of_mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(code)
    encoder = {"module": "package_of_mine:Mine", "settings": {"width": 5}}
    predictor = best(
        table().select("x0", "x1", "price"), tmp_path / "run", "joint",
        targets=["price"], encoder=encoder,
    )  # fmt: skip
    check(predictor, table(9, seed=2).select("x0", "x1"), tmp_path, PYTHONPATH=str(code))
    told = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)], check=False, cwd=tmp_path,
        env={"PATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert "cannot load the module 'package_of_mine:Mine'" in told.stderr.splitlines()[-1]
    assert "put its folder on PYTHONPATH" in told.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("label", ["joint", "adapted", "separate"])
def test_a_transformer_is_copied_into_the_folder(tmp_path: Path, label: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", *(f"w{number}" for number in range(20))]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    tokenizer.save(str(tmp_path / "bert" / "tokenizer.json"))
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(words, 5)) for _ in range(80)]
    frame = pl.DataFrame(
        {
            "text": texts,
            "a": [int("w1 " in text) for text in texts],
            "b": [int("w2 " in text) for text in texts],
        }
    )
    study = plait.compare(
        frame, targets=["a", "b"], strategies={"joint": "joint", "adapted": {"adapt": "lora"}},
        encoder={"text": {"transformer": {"pretrained": str(tmp_path / "bert")}}},
        training={"passes": 1}, seeds=1, out=tmp_path / "run", progress=Progress(),
    )  # fmt: skip
    predictor = study.best(label)
    shutil.rmtree(tmp_path / "bert")
    shutil.rmtree(tmp_path / "run")
    check(predictor, frame.select("text"), tmp_path)
    # The frozen encoder of several networks is kept once.
    copies = list((tmp_path / "moved").rglob("frozen-*.safetensors"))
    assert len(copies) == 1
