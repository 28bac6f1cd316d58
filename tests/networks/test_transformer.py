from __future__ import annotations

import sys

import pytest
import torch

from plait.batch import Input, Records
from plait.method import MethodError
from plait.networks import Network, build_network, lengths, make_encoder
from plait.sharing import Hard
from plait.testing.toys import toy_tasks

transformers = pytest.importorskip("transformers")

TINY = {
    "model_type": "bert", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64,
}  # fmt: skip
TEXT = Input(key="text.review", type="text", shape=(-1,), sizes=(41,))
OTHER = Input(key="text.title", type="text", shape=(-1,), sizes=(41,))
INPUTS = {"text.review": TEXT}
TASKS = toy_tasks(("binary", "real"))


def encoder(inputs=None, trunk=0, **settings):
    spec = {
        "text": {"transformer": {"config": TINY, **settings}},
        "trunk": {"mlp": {"depth": trunk}},
    }
    torch.manual_seed(0)
    return make_encoder(spec, inputs or INPUTS)


def tokens(rows=4, longest=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(1, 41, (rows, longest), generator=generator)
    for row in range(rows):
        found[row, longest - row :] = 0
    return found


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pools_the_models_states_over_real_tokens(pooling):
    enc = encoder(pooling=pooling)
    value = tokens()
    found = enc({"a": {"text.review": value}})
    for row in range(len(value)):
        ids = value[row][value[row] > 0] - 1
        states = enc.stems["text"].model(input_ids=ids[None])[0][0]
        expected = states[0] if pooling == "cls" else states.mean(0)
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-5)


def test_padding_and_empty_texts_are_harmless():
    enc = encoder()
    value = tokens()
    padded = torch.cat([value, torch.zeros(4, 9).long()], dim=1)
    torch.testing.assert_close(
        enc({"a": {"text.review": padded}}), enc({"a": {"text.review": value}}), rtol=0, atol=1e-5
    )
    empty = {"a": {"text.review": torch.zeros(2, 3).long()}}
    assert (enc(empty) == 0).all()
    assert encoder(pooling="cls")(empty).isfinite().all()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_texts_of_mixed_length_give_what_each_gives_alone(pooling, monkeypatch):
    monkeypatch.setattr(lengths, "CPU", (8, 64))
    enc = encoder(pooling=pooling, frozen=False).double().eval()
    value = tokens(12, 30)
    value[::3, 4:] = 0
    value = value[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    assert len(lengths.by_length(value)) > 4
    together = enc({"a": {"text.review": value}})
    for row in range(12):
        alone = enc({"a": {"text.review": value[row][None, : int((value[row] > 0).sum())]}})
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-12)


def test_cutting_by_length_changes_no_gradient(monkeypatch):
    value = tokens(12, 30)
    value[::3, 4:] = 0
    grads = []
    for start in (10_000, 8):
        monkeypatch.setattr(lengths, "CPU", (start, 64))
        enc = encoder(frozen=False).double().eval()
        enc({"a": {"text.review": value}}).square().sum().backward()
        grads.append([p.grad for p in enc.parameters()])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_one_model_reads_every_text():
    enc = encoder({"text.review": TEXT, "text.title": OTHER})
    single = encoder()
    assert sum(p.numel() for p in enc.parameters()) == sum(p.numel() for p in single.parameters())
    part = {"text.review": tokens(), "text.title": tokens(seed=1)}
    found = enc({"a": part})
    assert found.shape == (4, 32)
    torch.testing.assert_close(found[:, 16:], single({"a": {"text.review": part["text.title"]}}))


def test_frozen_models_stay_in_evaluation_mode_and_do_not_train():
    enc = encoder(frozen=True, trunk=1)
    enc.train()
    assert enc.training
    assert not enc.stems["text"].model.training
    value = {"a": {"text.review": tokens()}}
    assert torch.equal(enc(value), enc(value))
    enc(value).sum().backward()
    assert all(p.grad is None for p in enc.stems["text"].parameters())
    assert all(p.grad is not None for p in enc.trunk.parameters())


def test_trained_models_get_a_gradient_everywhere():
    enc = encoder(frozen=False)
    enc.train()
    assert enc.stems["text"].model.training
    enc({"a": {"text.review": tokens()}}).square().sum().backward()
    assert all(p.grad is not None for p in enc.parameters())


def test_checkpointing_changes_no_gradient():
    grads = []
    for checkpointing in (False, True):
        enc = encoder(frozen=False, checkpointing=checkpointing)
        enc.train()
        for module in enc.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        enc({"a": {"text.review": tokens()}}).square().sum().backward()
        grads.append([p.grad for p in enc.parameters()])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_frozen_encoders_read_cached_features():
    enc = encoder()
    value = {"text.review": tokens()}
    features = torch.randn(4, 16)
    found = enc({"a": {**value, "features.review": features}})
    assert torch.equal(found, features)
    assert torch.equal(enc({"a": {"features.review": features}}), features)
    trained = encoder(frozen=False).eval()
    assert not torch.equal(trained({"a": {**value, "features.review": features}}), features)
    with pytest.raises(ValueError, match="cached features serve frozen encoders only"):
        trained({"a": {"features.review": features}})


def test_a_network_with_a_transformer_needs_nothing_but_its_folder(tmp_path):
    source = tmp_path / "source"
    transformers.BertModel(transformers.BertConfig(**TINY)).save_pretrained(source)
    net = build_network(
        inputs=INPUTS, tasks=TASKS, sharing=Hard(), seed=0,
        encoder={"text": {"transformer": {"pretrained": str(source)}}},
    )  # fmt: skip
    original = transformers.BertModel.from_pretrained(source).get_input_embeddings().weight
    model = net.trunk.encoder.stems["text"].model
    assert torch.equal(model.get_input_embeddings().weight, original)
    net.save_pretrained(tmp_path / "net")
    for path in source.iterdir():
        path.unlink()
    again = Network.from_pretrained(tmp_path / "net")
    asked = {"binary": Records(torch.zeros(4).long(), torch.arange(4))}
    parts = {"a": {"text.review": tokens()}}
    assert torch.equal(again.predict(parts, asked)["binary"], net.predict(parts, asked)["binary"])
    assert not again.trunk.encoder.stems["text"].model.training


@pytest.mark.parametrize(
    ("settings", "setting", "message"),
    [
        ({"pooling": "men"}, "pooling", "did you mean 'mean'"),
        ({"config": {**TINY, "vocab_size": 9}}, "pretrained", "40 tokens but the model knows 9"),
        ({"config": None}, "pretrained", "local folder or a hub name"),
        ({"config": None, "pretrained": "/no/such/folder"}, "pretrained", "could be loaded"),
        ({"config": {"model_type": "brt"}}, "config", "not a transformer's configuration"),
        ({"poolin": "mean"}, "poolin", "did you mean 'pooling'"),
    ],
)
def test_mistakes_name_the_setting(settings, setting, message):
    with pytest.raises(MethodError, match=message) as caught:
        encoder(**settings)
    assert caught.value.where == ("text", "transformer", setting)


def test_loading_is_quiet_and_sees_what_lacks(tmp_path, capfd):
    from safetensors.torch import load_file, save_file

    model = transformers.BertForMaskedLM(transformers.BertConfig(**TINY))
    model.save_pretrained(tmp_path)
    capfd.readouterr()
    encoder(config=None, pretrained=str(tmp_path))
    assert capfd.readouterr() == ("", "")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["bert.encoder.layer.1.attention.self.query.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(MethodError, match=r"lacks weights .*layer\.1\.attention\.self\.query"):
        encoder(config=None, pretrained=str(tmp_path))


def test_a_missing_extra_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MethodError, match=r"needs the extra 'text': pip install 'plait\[text\]'"):
        encoder()
