from __future__ import annotations

import pytest
import torch
from adapter_nets import bert, model_of, pooled, states, texts, trunk_of
from torch.nn.functional import gelu, layer_norm

from plait.adapting.qst import Qst

pytest.importorskip("transformers")

D, W, K = 16, 8, 3


def bank_of(network):
    (bank,) = trunk_of(network).banks.values()
    return bank


def by_the_paper(bank, plain, tokens, t):
    """One text's states for one task, layer by layer."""
    own = {name: p[t] for name, p in bank.named_parameters()}

    def norm(name, x):
        return layer_norm(x, (W,), own[name], own[f"{name}_bias"])

    def linear(name, x):
        return x @ own[name].T + own.get(f"{name}_bias", 0.0)

    def down(layer, h):
        inner = linear(f"narrow{layer}", h)
        return norm(f"down_norm{layer}", linear(f"down{layer}", inner * inner.sigmoid()))

    h = plain(input_ids=tokens[None], output_hidden_states=True).hidden_states
    side = down(0, h[0][0])
    for layer in range(2):
        gate = own[f"gate{layer}"].sigmoid()
        side = (1 - gate) * down(layer, h[layer + 1][0]) + gate * side
        query, key, value = linear(f"read{layer}", norm(f"first_norm{layer}", side)).split(W, 1)
        heads = []
        for one in range(2):
            cut = slice(one * W // 2, (one + 1) * W // 2)
            scores = query[:, cut] @ key[:, cut].T / (W // 2) ** 0.5
            heads.append(scores.softmax(1) @ value[:, cut])
        side = side + linear(f"told{layer}", torch.cat(heads, 1))
        inner = gelu(linear(f"inner{layer}", norm(f"second_norm{layer}", side)))
        side = side + linear(f"outer{layer}", inner)
    share = own["share"].sigmoid()
    return (1 - share) * linear("wide", norm("last_norm", side)) + share * h[-1][0]


def test_equals_the_formula_text_by_text():
    network = bert(Qst(reduction=2, rank=K)).double().eval()
    plain = model_of(bert()).double()
    value, task = texts(6, 3, 5), [0, 2, 1]
    found = states(network, value, task)
    for row, t in enumerate(task):
        own = value[row][value[row] > 0]
        hidden = by_the_paper(bank_of(network), plain, own - 1, t)
        wanted = pooled(hidden[None], torch.ones(1, len(own)))
        torch.testing.assert_close(found[[row]], wanted, rtol=0, atol=1e-12)


def test_a_share_of_one_is_the_frozen_network_exactly():
    network = bert(Qst(reduction=2, rank=K)).eval()
    bank_of(network).share.data.fill_(100.0)
    value = texts(6, 3)
    assert torch.equal(states(network, value, [0, 2]), states(bert().eval(), value, [0, 2]))


def test_no_gradient_goes_through_the_frozen_network():
    network = bert(Qst(reduction=2, rank=K)).train()
    saved = []

    def pack(tensor):
        saved.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        states(network, texts(6, 6), [0, 2]).square().sum().backward()
    assert (2, 6, 32) not in saved  # what the frozen feed-forward parts say inside
    assert all(p.grad is None for p in trunk_of(network).base.parameters())
    assert all((p.grad != 0).any() for p in bank_of(network).parameters())


def test_checkpointed_blocks_change_nothing():
    value = texts(6, 3)
    plain, other = (bert(Qst(reduction=2, rank=K), checkpointing=c).train() for c in (False, True))
    assert torch.equal(states(plain, value, [0, 2]), states(other, value, [0, 2]))


def test_parameters_are_the_formulas():
    bank, f = bank_of(bert(Qst(reduction=2, rank=K))), 16
    layer = K * (D + W) + 4 * W * W + 2 * W * f + f + 12 * W
    assert sum(p.numel() for p in bank.parameters()) == 3 * (2 * layer + W * D + 2 * D + 2 * W)
    with pytest.raises(ValueError, match="reduction and rank must be at least 1"):
        Qst(rank=0)
    with pytest.raises(ValueError, match="rank 17 is above the width 16"):
        bert(Qst(rank=17))
