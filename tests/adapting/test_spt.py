from __future__ import annotations

import pytest
import torch
from adapter_nets import bert, model_of, pooled, states, texts, trunk_of

from plait.adapting import build_adapted
from plait.adapting.spt import Spt

pytest.importorskip("transformers")


def bank_of(network):
    (bank,) = trunk_of(network).banks.values()
    return bank


def test_equals_the_formula_text_by_text():
    network = bert(Spt(memories=6, length=2, top=3)).double().eval()
    bank, plain = bank_of(network), model_of(bert()).double()
    value = texts(6, 3, 5)
    found = states(network, value, [0, 2, 1])
    for row in range(3):
        own = value[row][value[row] > 0]
        words = plain.embeddings.word_embeddings.weight[own - 1]
        scores = bank.keys @ words.mean(0)
        best = sorted(range(6), key=lambda i: -scores[i].item())[:3]
        weights = 3 * scores[best].softmax(0)
        before = [w * bank.memory[i] for w, i in zip(weights, best, strict=True)]
        hidden = plain(inputs_embeds=torch.cat([*before, words]).unsqueeze(0))[0][:, 6:]
        wanted = pooled(hidden, torch.ones(1, len(own)))
        torch.testing.assert_close(found[[row]], wanted, rtol=0, atol=1e-12)


def test_one_memory_is_a_prompt_of_all_texts():
    network = bert(Spt(memories=1, length=2, top=1)).eval()
    plain, value = model_of(bert()), texts(5, 5)
    bank_of(network).memory.data[0] = plain.embeddings.word_embeddings.weight[[7, 11]]
    longer = torch.cat([torch.tensor([[7, 11]] * 2), value - 1], 1)
    hidden = plain(input_ids=longer)[0][:, 2:]
    found = states(network, value, [0, 1])
    torch.testing.assert_close(found, pooled(hidden, value > 0), rtol=0, atol=1e-5)


def test_texts_bring_up_the_memories_that_are_planted_for_their_words():
    network = bert(Spt(memories=3, length=1, top=1)).double().eval()
    bank = bank_of(network)
    words = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(0)).double() * 0.1
    bank.keys.data = torch.eye(3, 16).double()
    for row, place in enumerate((2, 0, 1)):
        words[row, :, place] += 1.0
    found = bank.brought(words, torch.ones(3, 4))
    torch.testing.assert_close(found, bank.memory[[2, 0, 1]])


def test_keys_train_where_several_are_read():
    network = bert(Spt(memories=6, length=2, top=3)).eval()
    states(network, texts(6, 3), [0, 2]).square().sum().backward()
    bank = bank_of(network)
    assert (bank.keys.grad != 0).any()
    assert (bank.memory.grad != 0).any()


def test_parameters_do_not_grow_with_the_tasks_and_room_is_checked():
    network = bert(Spt(memories=6, length=2, top=3))
    trained = sum(p.numel() for p in trunk_of(network).banks.parameters())
    assert trained == 6 * (2 + 1) * 16
    with pytest.raises(ValueError, match="spt: 50 virtual tokens"):
        build_adapted(bert(), Spt(length=10, top=5), 0)
    with pytest.raises(ValueError, match="top 5 is more than the 4 memories"):
        Spt(memories=4, top=5)
    with pytest.raises(ValueError, match="length must be at least 1"):
        Spt(length=0)
