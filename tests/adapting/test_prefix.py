from __future__ import annotations

import pytest
import torch
from adapter_nets import TINY, bert, model_of, pooled, states, texts, trunk_of

from plait.adapting import build_adapted
from plait.adapting.prefix import Prefix

pytest.importorskip("transformers")


def bank_of(network):
    (bank,) = trunk_of(network).banks.values()
    return bank


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("hidden", [0, 5])
def test_equals_pefts_for_each_task(hidden):
    peft = pytest.importorskip("peft")
    from transformers import AutoConfig, AutoModel

    network = bert(Prefix(length=3, hidden=hidden)).eval()
    base = AutoModel.from_config(AutoConfig.for_model(**TINY)).eval()
    base.load_state_dict(model_of(bert()).state_dict(), strict=False)
    config = peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3)
    theirs = peft.get_peft_model(base, config).eval()
    value, task = texts(4, 6, 6), [2, 0, 2]
    found = states(network, value, task)
    for row, t in enumerate(task):
        bank = bank_of(network)
        prefix = bank.prefix[t]
        if hidden:
            inner = (prefix @ bank.first[t] + bank.first_bias[t]).tanh()
            prefix = inner @ bank.second[t] + bank.second_bias[t]
        theirs.prompt_encoder["default"].embedding.weight.data.copy_(prefix)
        own = value[[row]][:, : int((value[row] > 0).sum())]
        hidden_states = theirs(input_ids=own - 1, attention_mask=torch.ones_like(own))[0]
        torch.testing.assert_close(found[[row]], pooled(hidden_states, own > 0), rtol=0, atol=1e-5)


def test_a_prefix_of_cached_keys_is_the_text_before_in_a_causal_model():
    from transformers import AutoConfig, AutoModel

    from plait.adapting.virtual import attention_shape, with_prefix

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=32, max_position_embeddings=64,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = AutoModel.from_config(config).eval()
    layers, heads, width = attention_shape(model)
    before, after = torch.randint(1, 40, (2, 3)), torch.randint(1, 40, (2, 4))
    with torch.no_grad():
        whole = model(input_ids=torch.cat([before, after], 1))[0][:, 3:]
        cache = model(input_ids=before, use_cache=True).past_key_values
        own = torch.stack(
            [torch.stack([cache.layers[i].keys, cache.layers[i].values], 0) for i in range(layers)]
        ).permute(2, 4, 0, 1, 3, 5)
        assert own.shape == (2, 3, layers, 2, heads, width)
        (found,) = with_prefix(
            model, own, torch.full((2,), 3.0), input_ids=after,
            attention_mask=torch.ones_like(after),
        )  # fmt: skip
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-6)


def test_vectors_that_a_task_does_not_have_are_not_read():
    network = bert(Prefix(length=3)).eval()
    bank, value = bank_of(network), texts(5, 5)
    bank.take(1, {"prompt_embeddings": bank.prefix[1, :2].detach().clone()}, 1.0)
    short = states(network, value, [0, 1])
    bank.prefix.data[1, 2] = 100.0
    assert torch.equal(states(network, value, [0, 1]), short)


def test_checkpointed_blocks_are_refused():
    with pytest.raises(ValueError, match="set checkpointing: false"):
        build_adapted(bert(checkpointing=True, frozen=False), Prefix(), 0)


def test_models_without_past_keys_are_refused():
    tiny = {"model_type": "distilbert", "dim": 16, "hidden_dim": 32, "n_heads": 2, "n_layers": 1,
            "vocab_size": 40}  # fmt: skip
    with pytest.raises(ValueError, match="DistilBertModel: it takes no past_key_values"):
        build_adapted(bert(config=tiny), Prefix(), 0)
