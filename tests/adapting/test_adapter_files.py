from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from adapter_nets import TINY, bert, model_of, pooled, states, texts, trunk_of

from plait.adapting import build_adapted
from plait.adapting.bottleneck import Bottleneck
from plait.adapting.dora import Dora
from plait.adapting.files import load_adapter, save_adapter
from plait.adapting.ia3 import Ia3
from plait.adapting.lora import Lora
from plait.adapting.prefix import Prefix
from plait.adapting.prompt import Prompt
from plait.adapting.rs_lora import RsLora
from plait.weights.adapter_folders import AdapterFile, read_adapter
from plait.weights.files import DamagedError

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

KINDS = [
    Lora(rank=2, alpha=6.0), RsLora(rank=2), Dora(rank=2), Ia3(), Prompt(length=3),
    Prefix(length=3), Lora(rank=2, sites=["<inner>", "key"]),
]  # fmt: skip


def theirs():
    from transformers import AutoConfig, AutoModel

    base = AutoModel.from_config(AutoConfig.for_model(**TINY)).eval()
    base.load_state_dict(model_of(bert()).state_dict(), strict=False)
    return base


@pytest.mark.parametrize("adapter", KINDS, ids=lambda adapter: adapter.card.name)
def test_peft_reads_what_plait_writes_and_the_reverse(adapter, tmp_path):
    peft = pytest.importorskip("peft")
    network = bert(adapter).eval()
    save_adapter(network, "a/b", tmp_path / "ours")
    value = texts(5, 5)
    model = peft.PeftModel.from_pretrained(theirs(), tmp_path / "ours").eval()
    hidden = model(input_ids=value - 1, attention_mask=torch.ones_like(value))[0]
    ours = states(network, value, [2, 2])
    torch.testing.assert_close(ours, pooled(hidden[:, -5:], value > 0), rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path / "theirs")
    fresh = build_adapted(bert(), adapter, 1).eval()
    load_adapter(fresh, "type", tmp_path / "theirs")
    assert torch.equal(states(fresh, value, [0, 0]), ours)


def test_a_swap_in_a_running_model_moves_no_other_task_by_one_bit(tmp_path):
    network, other = bert(Lora(rank=4)).eval(), bert(Lora(rank=2, alpha=5.0)).eval()
    save_adapter(other, "type", tmp_path)
    value = texts(5, 3, 4)
    before = states(network, value, [0, 1, 2])
    load_adapter(network, "NR.AR", tmp_path)
    after = states(network, value, [0, 1, 2])
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    own = states(other, value, [0, 0, 0])
    torch.testing.assert_close(after[1], own[1], rtol=0, atol=1e-6)
    save_adapter(network, "NR.AR", tmp_path / "again")
    assert read_adapter(tmp_path / "again").scale(
        "encoder.layer.0.attention.self.query"
    ) == pytest.approx(5.0 / 2)


def test_heads_and_modules_saved_beside_adapters_round_trip(tmp_path):
    network = bert(Lora(rank=2))
    save_adapter(network, "type", tmp_path / "plain")
    read = read_adapter(tmp_path / "plain")
    one = {
        "classifier.weight": np.full((1, 16), 0.5, np.float32),
        "classifier.bias": np.ones(1, np.float32),
    }
    two = {
        f"classifier.{layer}.{name}": np.random.default_rng(0).normal(size=size).astype("f4")
        for layer, width in (("dense", 16), ("out_proj", 1))
        for name, size in (("weight", (width, 16)), ("bias", (width,)))
    }
    config = {**read.config, "modules_to_save": ["classifier"]}
    for name, saved in (("one", one), ("two", two)):
        AdapterFile(config, read.modules, saved, read.base).write(tmp_path / name)
        again = read_adapter(tmp_path / name)
        assert again.saved.keys() == saved.keys()
        assert all(np.array_equal(again.saved[key], value) for key, value in saved.items())
    bank = network.heads.bank("binary")
    before = bank.weight.detach().clone()
    load_adapter(network, "type", tmp_path / "one")
    assert (bank.weight[0] == 0.5).all()
    assert float(bank.bias[0].detach()) == 1.0
    assert torch.equal(bank.weight[1:], before[1:])
    found = load_adapter(network, "type", tmp_path / "two")
    assert (bank.weight[0] == 0.5).all()
    assert found.saved.keys() == two.keys()


@pytest.mark.parametrize(
    ("made", "loaded", "message"),
    [
        (Lora(rank=4), Lora(rank=2), r"rank 4, the network 2 \(made on the base .*the same base\)"),
        (Lora(rank=2, sites=["key"]), Lora(rank=2), r"adapts '.*self\.key'"),
        (
            Ia3(),
            Lora(rank=2, sites=["<key>", "<value>", "<outer>"]),
            "peft_type 'IA3', the network's lora 'LORA'",
        ),
        (Dora(rank=2), Lora(rank=2), "use_dora True, the network's lora False"),
        (Prompt(length=2), Lora(rank=2), "the network adapts"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(made, loaded, message, tmp_path):
    save_adapter(bert(made), "type", tmp_path)
    network = bert(loaded)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_adapter(network, "type", tmp_path)
    assert all(torch.equal(before[n], v) for n, v in network.state_dict().items())


def test_an_adapter_of_another_base_is_told_apart_by_shapes_and_hash(tmp_path):
    save_adapter(bert(Lora(rank=2), config={**TINY, "hidden_size": 8}), "type", tmp_path)
    with pytest.raises(ValueError, match=r"A \(2, 8\).*network A \(2, 16\).*: another base\)"):
        load_adapter(bert(Lora(rank=2)), "type", tmp_path)


def test_an_adapter_trained_on_other_weights_is_taken_only_if_that_is_meant(tmp_path):
    save_adapter(bert(Lora(rank=2)), "type", tmp_path)
    network = bert(Lora(rank=2))
    next(trunk_of(network).base.parameters()).data.add_(1.0)
    for bank in trunk_of(network).banks.values():
        bank.up.data.zero_()
    with pytest.raises(ValueError, match=r"on other weights; other_base=True .*: another base\)"):
        load_adapter(network, "type", tmp_path)
    assert not any(bank.up.any() for bank in trunk_of(network).banks.values())
    load_adapter(network, "type", tmp_path, other_base=True)
    assert all(bank.up[0].any() for bank in trunk_of(network).banks.values())


def test_adapters_without_a_form_in_peft_say_so(tmp_path):
    with pytest.raises(ValueError, match="peft's files have no form"):
        save_adapter(bert(Bottleneck()), "type", tmp_path)
    with pytest.raises(ValueError, match="no adapters; make one with build_adapted"):
        save_adapter(bert(), "type", tmp_path)
    with pytest.raises(KeyError, match="did you mean 'a/b'"):
        save_adapter(bert(Lora(rank=2)), "a/c", tmp_path)


def spoilt(folder, **changes):
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}), "utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LORO"}, "did you mean 'LORA'"),
        ({"peft_type": None}, "type 'None'"),
        ({"bias": "all"}, "trains biases"),
        ({"lora_alpha": "x"}, "lora_alpha is missing or no number"),
        ({"use_qalora": True}, "use_qalora is not read"),
    ],
)
def test_configurations_that_mean_something_else_are_refused(changes, message, tmp_path):
    save_adapter(bert(Lora(rank=2)), "type", tmp_path)
    spoilt(tmp_path, **changes)
    with pytest.raises(DamagedError, match=message):
        read_adapter(tmp_path)


def test_pickled_and_missing_adapters_are_refused(tmp_path):
    with pytest.raises(DamagedError, match=r"adapter_config\.json is missing"):
        read_adapter(tmp_path)
    save_adapter(bert(Lora(rank=2)), "type", tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(DamagedError, match=r"is a pickle.*load it with peft and save it again"):
        read_adapter(tmp_path)


def test_scales_follow_patterns_as_in_peft(tmp_path):
    save_adapter(bert(Lora(rank=2, alpha=4.0)), "type", tmp_path)
    spoilt(tmp_path, alpha_pattern={"0.attention.self.query": 7.0}, use_rslora=True)
    read = read_adapter(tmp_path)
    assert read.scale("encoder.layer.0.attention.self.query") == pytest.approx(7 / 2**0.5)
    assert read.scale("encoder.layer.1.attention.self.query") == pytest.approx(4 / 2**0.5)
