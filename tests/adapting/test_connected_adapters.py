from __future__ import annotations

import pytest
import torch
from adapter_nets import bert, model_of, pooled, states, texts, trunk_of
from torch.nn.functional import gelu

from plait.adapting.connected_adapters import ConnectedAdapters

pytest.importorskip("transformers")


def network(**settings):
    return bert(ConnectedAdapters(reduction=4), **settings).double()


def through(bank, h, t, which):
    """U f(D h + b) + b′ of task t, as written."""
    down, b, up, b_up = (
        bank.get_parameter(f"{which}{name}")[t] for name in ("down", "down_bias", "up", "up_bias")
    )
    return gelu(h @ down.T + b) @ up.T + b_up


def test_equals_the_formula_with_a_chain_beside_the_blocks():
    made = network().eval()
    plain = model_of(bert()).double().eval()
    banks = list(trunk_of(made).banks.values())
    value, task = texts(5, 2, 4), [2, 0, 1]
    found = states(made, value, task)
    for row, t in enumerate(task):
        mask = value[[row]] > 0
        h = plain.embeddings(input_ids=value[[row]][mask][None] - 1)
        chain = torch.zeros_like(h)
        for layer, bank in zip(plain.encoder.layer, banks, strict=True):
            said = layer(h)
            said = said[0] if isinstance(said, tuple) else said
            chain = chain + through(bank, said + chain, t, "aside_")
            h = said + through(bank, said, t, "") + chain
        torch.testing.assert_close(found[[row]], h.mean(1), rtol=0, atol=1e-10)


def test_without_the_chain_they_are_adapters_after_the_blocks():
    made = network().eval()
    plain = model_of(bert()).double().eval()
    banks = list(trunk_of(made).banks.values())
    for bank in banks:
        bank.aside_up.data.zero_()
        bank.aside_up_bias.data.zero_()
    value = texts(4, 4)
    x = plain.embeddings(input_ids=value - 1)
    for layer, bank in zip(plain.encoder.layer, banks, strict=True):
        said = layer(x)
        said = said[0] if isinstance(said, tuple) else said
        x = said + through(bank, said, 1, "")
    found = states(made, value, [1, 1])
    torch.testing.assert_close(found, pooled(x, value > 0), rtol=0, atol=1e-10)


def test_gradients_reach_the_first_block_without_passing_the_next():
    made = network().eval()
    first, second = trunk_of(made).banks.values()
    last = trunk_of(made).base.get_submodule("encoder.stems.text.model.encoder.layer.1").base
    last.register_forward_hook(  # the frozen block passes nothing on
        lambda _, inputs, out: tuple(0 * o for o in out) if isinstance(out, tuple) else 0 * out
    )
    for bank in (first, second):
        bank.aside_down_bias.data.fill_(0.5)
    states(made, texts(4), [0]).square().sum().backward()
    assert first.aside_up.grad[0].abs().sum() > 0
    assert first.up.grad[0].abs().sum() == 0


def test_the_chain_is_the_same_when_blocks_are_recomputed():
    value = texts(5, 5)
    found = []
    for checkpointing in (False, True):
        made = network(checkpointing=checkpointing).train()
        states(made, value, [0, 2]).square().sum().backward()
        found.append([p.grad for p in trunk_of(made).banks.parameters()])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


def test_parameters_are_the_formulas():
    made = network()
    found = sum(p.numel() for p in trunk_of(made).banks.parameters())
    assert found == 2 * 2 * 3 * (2 * 4 * 16 + 4 + 16)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"reduction": 0}, "reduction must be at least 1"),
        ({"activation": "gelus"}, "did you mean 'gelu'"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ValueError, match=said):
        ConnectedAdapters(**settings)
