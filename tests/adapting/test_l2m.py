from __future__ import annotations

import copy

import pytest
import torch
from adapter_nets import bert, model_of, pooled, states, texts, trunk_of

from plait.adapting import build_adapted
from plait.adapting.l2m import L2m
from plait.batch import Records

pytest.importorskip("transformers")
KEYS = "encoder%2Estems%2Etext%2Emodel"


def network(**settings):
    return bert(L2m(**{"pool": 4, "rank": 2, "alpha": 6.0, **settings})).double().eval()


def queries(value):
    """The mean of the embedded words of each text."""
    words = model_of(bert()).double().get_input_embeddings()
    found = [words(text[text > 0] - 1).mean(0) for text in value]
    return torch.stack(found).detach()


def test_equals_a_lora_that_the_nearest_key_chooses():
    made = network()
    banks = trunk_of(made).banks
    value = texts(5, 2, 4, 3)
    query, keys = queries(value), banks[KEYS].keys.detach()
    cosines = [[torch.cosine_similarity(q, k, dim=0) for k in keys] for q in query]
    chosen = torch.tensor(cosines).argmax(1).tolist()
    assert len(set(chosen)) > 1
    found = states(made, value, [0, 0, 1, 2])
    for row, j in enumerate(chosen):
        plain = copy.deepcopy(model_of(bert()).double().eval())
        for path, bank in banks.items():
            if path != KEYS:
                layer = plain.get_submodule(path.replace("%2E", ".").partition("model.")[2])
                layer.weight.data += 3.0 * bank.up[j].detach() @ bank.down[j].detach()
        mask = value[[row]] > 0
        ids = (value[[row]] - 1).clamp(min=0)
        wanted = pooled(plain(input_ids=ids, attention_mask=mask.long())[0], mask)
        torch.testing.assert_close(found[[row]], wanted, rtol=0, atol=1e-10)


def test_keys_learn_from_how_well_they_match_and_only_those_chosen():
    made = network(pull=0.7)
    keys = trunk_of(made).banks[KEYS].keys
    value = texts(5, 2, 4)
    asked = {"binary": Records(torch.tensor([0, 1, 2]), torch.arange(3))}
    out = made({"a": {"text.review": value}}, asked)
    cosines = torch.stack(
        [torch.stack([torch.cosine_similarity(q, k, dim=0) for k in keys]) for q in queries(value)]
    )
    wanted = -0.7 * cosines.max(1).values.mean()
    torch.testing.assert_close(out.penalties["l2m"], wanted, rtol=0, atol=1e-12)
    out.penalties["l2m"].backward()
    chosen = set(cosines.argmax(1).tolist())
    assert {j for j in range(4) if keys.grad[j].any()} == chosen


def test_texts_of_very_different_length_weigh_the_same_in_the_penalty():
    made = network()
    value = texts(*[2] * 40, *[16] * 40)
    asked = {"binary": Records(torch.zeros(80).long(), torch.arange(80))}
    found = made({"a": {"text.review": value}}, asked).penalties["l2m"]
    keys = torch.nn.functional.normalize(trunk_of(made).banks[KEYS].keys, dim=1)
    cosines = torch.nn.functional.normalize(queries(value), dim=1) @ keys.T
    torch.testing.assert_close(found, -0.5 * cosines.max(1).values.mean(), rtol=0, atol=1e-12)


def test_planted_clusters_get_a_modulator_each():
    made = network(pool=3)
    banks = trunk_of(made).banks
    value = torch.stack([torch.full((4,), word) for word in (3, 17, 29)])
    banks[KEYS].keys.data.copy_(queries(value))
    seen = []
    layer = next(bank for path, bank in banks.items() if path != KEYS)
    layer.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[1].given("modulator")), with_kwargs=False
    )
    states(made, value[[2, 0, 1, 1]], [0, 0, 0, 0])
    assert seen[0].tolist() == [2, 0, 1, 1]


def test_it_starts_as_the_base_whatever_is_chosen():
    start = bert().eval()
    made = build_adapted(start, L2m(rank=2), 0).eval()
    value = texts(5, 2, 4)
    assert torch.equal(states(start, value, [0, 1, 2]), states(made, value, [0, 1, 2]))


def test_parameters_are_the_formulas():
    made = network()
    sides = 4 * (16 + 16) + 4 * (16 + 32)  # queries, values and both matrices, in two blocks
    total = sum(p.numel() for p in trunk_of(made).banks.parameters())
    assert total == 4 * 2 * sides + 4 * 16


def test_settings_are_checked():
    with pytest.raises(ValueError, match="pool must be at least 1"):
        L2m(pool=0)
    with pytest.raises(ValueError, match="pull must not be negative"):
        L2m(pull=-1.0)
