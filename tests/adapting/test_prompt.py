from __future__ import annotations

import pytest
import torch
from adapter_nets import TINY, bert, model_of, pooled, states, texts, trunk_of

from plait.adapting import build_adapted
from plait.adapting.prompt import Prompt
from plait.testing.toys import toy_inputs

pytest.importorskip("transformers")


def bank_of(network):
    (bank,) = trunk_of(network).banks.values()
    return bank


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_equals_pefts_for_each_task():
    peft = pytest.importorskip("peft")
    from transformers import AutoConfig, AutoModel

    network = bert(Prompt(length=3)).eval()
    base = AutoModel.from_config(AutoConfig.for_model(**TINY)).eval()
    base.load_state_dict(model_of(bert()).state_dict(), strict=False)
    config = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3)
    theirs = peft.get_peft_model(base, config).eval()
    value, task = texts(4, 6, 6), [2, 0, 2]
    found = states(network, value, task)
    for row, t in enumerate(task):
        table = theirs.prompt_encoder["default"].embedding.weight
        table.data.copy_(bank_of(network).prompt[t])
        own = value[[row]][:, : int((value[row] > 0).sum())]
        hidden = theirs(input_ids=own - 1, attention_mask=torch.ones_like(own))[0][:, 3:]
        torch.testing.assert_close(found[[row]], pooled(hidden, own > 0), rtol=0, atol=1e-5)


def test_a_prompt_of_real_tokens_is_those_tokens_in_the_text():
    network = bert(Prompt(length=2)).eval()
    plain = model_of(bert())
    value = texts(5, 5)
    bank_of(network).prompt.data[1] = plain.embeddings.word_embeddings.weight[[7, 11]]
    longer = torch.cat([torch.tensor([[7, 11]] * 2), value - 1], 1)
    hidden = plain(input_ids=longer, attention_mask=torch.ones_like(longer))[0][:, 2:]
    found = states(network, value, [1, 1])
    torch.testing.assert_close(found, pooled(hidden, value > 0), rtol=0, atol=1e-5)


def test_vectors_that_a_task_does_not_have_are_not_read():
    network = bert(Prompt(length=3)).eval()
    bank, value = bank_of(network), texts(5, 5)
    before = states(network, value, [0, 1])
    bank.take(1, {"prompt_embeddings": bank.prompt[1, :2].detach().clone()}, 1.0)
    short = states(network, value, [0, 1])
    bank.prompt.data[1, 2] = 100.0
    assert torch.equal(states(network, value, [0, 1]), short)
    assert torch.equal(before[0], short[0])
    assert not torch.allclose(before[1], short[1])
    assert bank.exported(1)["prompt_embeddings"].shape == (2, 16)


def test_starts_from_tokens_of_the_vocabulary_by_task():
    network = build_adapted(bert(), Prompt(length=4), 0)
    table = model_of(bert()).embeddings.word_embeddings.weight.detach()
    prompt = bank_of(network).prompt.detach()
    nearest = (prompt[:, :, None] - table).abs().sum(-1).min(-1).values
    assert float(nearest.max()) == 0.0
    assert not torch.equal(prompt[0], prompt[1])


def test_what_cannot_hold_a_prompt_is_refused():
    from plait.networks import build_network
    from plait.sharing import Hard
    from plait.testing.toys import toy_tasks

    table = build_network(
        inputs=toy_inputs(), tasks=toy_tasks(), encoder={}, sharing=Hard(), seed=0
    )
    with pytest.raises(ValueError, match="prompt adapts transformers, and the network has none"):
        build_adapted(table, Prompt(), 0)
    with pytest.raises(ValueError, match="give length: 48 or a lower max_length"):
        build_adapted(bert(), Prompt(length=49), 0)
