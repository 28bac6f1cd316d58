from __future__ import annotations

import pytest
import torch

from plait.adapting import Lora, build_adapted
from plait.batch import Batch, Input
from plait.networks import build_network, frozen
from plait.networks.frozen import features_of
from plait.networks.transformer import Transformer
from plait.sharing import Hard
from plait.testing.toys import toy_tasks

pytest.importorskip("transformers")

TINY = {
    "model_type": "bert", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64,
}  # fmt: skip
INPUTS = {
    "text.review": Input(key="text.review", type="text", shape=(-1,), sizes=(41,)),
    "numeric": Input(key="numeric", type="numeric", shape=(2,)),
}
TASKS = toy_tasks(("binary", "real"))


class Source:
    """Two tables of 100 and 60 rows; the second has no text."""

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(1, 41, (100, 30), generator=generator)
        lengths = torch.randint(1, 31, (100,), generator=generator)
        self.tokens[torch.arange(30) >= lengths[:, None]] = 0
        self.asked = 0

    def __len__(self):
        return 160

    def batch(self, rows):
        self.asked += 1
        first, second = rows[rows < 100], rows[rows >= 100]
        parts = {}
        if len(second):
            parts["b"] = {"numeric": torch.zeros(len(second), 2)}
        if len(first):
            parts["a"] = {"text.review": self.tokens[first], "numeric": torch.zeros(len(first), 2)}
        return Batch(parts=parts, labels={}, tasks=TASKS, ids=torch.cat([second, first]))


def network(seed=0, **settings):
    spec = {"text": {"transformer": {"config": TINY, **settings}}, "trunk": {"mlp": {"depth": 0}}}
    return build_network(inputs=INPUTS, tasks=TASKS, encoder=spec, sharing=Hard(), seed=seed)


def test_features_are_what_the_encoder_gives(monkeypatch):
    net, source = network(), Source()
    found = features_of(net, source)["features.review"]
    assert found.shape == (160, 16)
    part = {"text.review": source.tokens, "numeric": torch.zeros(100, 2)}
    expected = net.trunk.encoder({"a": part})[:, 2:]
    torch.testing.assert_close(found[:100], expected, rtol=0, atol=1e-5)
    assert (found[100:] == 0).all()


def test_the_result_depends_on_no_batch_cut(monkeypatch):
    net, source = network(), Source()
    whole = features_of(net, source)["features.review"]
    cut = torch.split
    monkeypatch.setattr(
        torch, "split", lambda tensor, size: cut(tensor, 7 if size == 1024 else size)
    )
    assert torch.equal(features_of(net, source)["features.review"], whole)


def test_cached_files_are_read_again(tmp_path, monkeypatch):
    net, source = network(), Source()
    first = features_of(net, source, tmp_path)["features.review"]
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(Transformer, "encode", None)
    assert torch.equal(features_of(network(), source, tmp_path)["features.review"], first)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"pooling": "cls"}, {"max_length": 64}, {"texts": 1}]
)
def test_other_weights_pooling_length_or_texts_are_other_files(change, tmp_path):
    features_of(network(), Source(), tmp_path)
    texts = Source(change.pop("texts", 0))
    features_of(network(**change), texts, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_file_is_written_again(tmp_path):
    net, source = network(), Source()
    first = features_of(net, source, tmp_path)["features.review"]
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-7])
    assert torch.equal(features_of(net, source, tmp_path)["features.review"], first)
    assert torch.equal(frozen.load(path.read_bytes())["features"], first)


def test_only_frozen_encoders_without_adapters_have_features():
    source = Source()
    assert features_of(network(frozen=False), source) == {}
    inside = build_adapted(network(), Lora(rank=2, sites=["query"]), seed=0)
    assert features_of(inside, source) == {}
    assert source.asked == 0
