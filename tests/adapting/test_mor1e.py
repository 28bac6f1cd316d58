from __future__ import annotations

import pytest
import torch
from adapter_nets import TASKS, bert, model_of, pooled, states, texts, trunk_of

from plait.adapting import build_adapted
from plait.adapting.mor1e import Mor1e
from plait.batch import Batch, Labels
from plait.testing.counting import operations

pytest.importorskip("transformers")
SMALL = {"rank": 2, "rank_out": 3}


def banks_of(network):
    """The banks at linear layers by the end of their path, and the one that embeds texts."""
    found = {p.replace("%2E", "."): b for p, b in trunk_of(network).banks.items()}
    reader = next(b for b in found.values() if hasattr(b, "centroids"))
    return {p: b for p, b in found.items() if b is not reader}, reader


def network(**settings):
    made = bert(Mor1e(**{**SMALL, **settings})).double().eval()
    linear, reader = banks_of(made)
    for bank in linear.values():
        bank.blend.data.fill_(0.004)
        bank.opening.data.fill_(-0.003)
    generator = torch.Generator().manual_seed(3)
    reader.centroids.normal_(generator=generator)
    return made


def correction(bank, x, s, kind):
    """One token's correction, expert by expert."""
    blend, opening = torch.sigmoid(100 * bank.blend), torch.sigmoid(100 * bank.opening)
    p = (bank.router @ x).softmax(0)
    gates = 32 * blend * p + 4 * (1 - blend) * s
    found = torch.zeros(bank.up.shape[0], dtype=x.dtype)
    for i in range(bank.down.shape[0]):
        for j in range(bank.up.shape[1]):
            gate = gates[i * 3 + j] if kind == "pairs" else gates[i] * (i == j)
            found = found + gate * bank.up[:, j] * (bank.down[i] @ x)
    return opening * found


@pytest.mark.parametrize("kind", ["pairs", "matched"])
def test_equals_the_formula_token_by_token(kind):
    made = network(kind=kind)
    plain = model_of(bert()).double().eval()
    linear, reader = banks_of(made)
    value = texts(4, 2, 3)
    found = states(made, value, [2, 0, 1])
    for row in range(3):
        mask = value[[row]] > 0
        ids = (value[[row]] - 1).clamp(min=0)
        embedded = pooled(plain(input_ids=ids, attention_mask=mask.long())[0], mask)[0]
        s = reader.centroids @ (embedded / embedded.norm())
        hooks = []
        for path, bank in linear.items():
            layer = plain.get_submodule(path.partition("model.")[2])

            def hook(_, inputs, out, bank=bank, s=s):
                each = [[correction(bank, x, s, kind) for x in text] for text in inputs[0]]
                return out + torch.stack([torch.stack(text) for text in each])

            hooks.append(layer.register_forward_hook(hook))
        wanted = pooled(plain(input_ids=ids, attention_mask=mask.long())[0], mask)
        for handle in hooks:
            handle.remove()
        torch.testing.assert_close(found[[row]], wanted, rtol=0, atol=1e-10)


def test_for_texts_that_resemble_the_same_it_is_a_plain_lora():
    made = network()
    linear, _ = banks_of(made)
    bank = next(iter(linear.values()))
    bank.blend.data.fill_(-1.0)  # σ(−100): the token's own gates are off
    x, s = torch.randn(2, 4, 16, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    gates = bank.gates(x, s.expand(2, 6))
    torch.testing.assert_close(gates, (4 * s).expand(2, 4, 6), rtol=0, atol=1e-12)
    bank.router.data.zero_()
    bank.blend.data.fill_(1.0)
    torch.testing.assert_close(bank.gates(x, s.expand(2, 6)), torch.full_like(gates, 32 / 6))


def test_pairs_on_the_diagonal_are_matched_experts():
    one, two = network(kind="matched", rank=2), network(rank=2, rank_out=2)
    (bank, *_), (other, *_) = banks_of(one)[0].values(), banks_of(two)[0].values()
    for name in ("down", "up"):
        other.get_parameter(name).data.copy_(bank.get_parameter(name))
    for each in (bank, other):
        each.blend.data.fill_(-1.0)
    from plait.adapting import Routing

    routing, x = Routing(), torch.randn(3, 4, 16, dtype=torch.float64)
    y, s = torch.zeros(3, 4, 16, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    with routing.to(torch.zeros(3).long()):
        with routing.giving(intuition=s):
            matched = bank.adapt(x, y, routing)
        with routing.giving(intuition=torch.stack([s[:, 0], 0 * s[:, 0], 0 * s[:, 0], s[:, 1]], 1)):
            paired = other.adapt(x, y, routing)
    torch.testing.assert_close(matched, paired, rtol=0, atol=1e-12)


def batch_of(value):
    rows = torch.arange(len(value))
    labels = Labels(task=0 * rows, rows=rows, target=torch.zeros(len(value)))
    return Batch(
        tasks=TASKS, parts={"a": {"text.review": value}}, labels={"binary": labels}, ids=rows
    )


def test_centroids_are_the_clusters_of_the_training_texts():
    adapter = Mor1e(rank=1, rank_out=2)
    made = build_adapted(bert(), adapter, 0).double().eval()
    value = torch.cat([texts(6).repeat(4, 1), (41 - texts(6)).clamp(min=1).repeat(3, 1)])
    adapter.begin(trunk_of(made), [batch_of(value[:5]), batch_of(value[5:])])
    _, reader = banks_of(made)
    plain = model_of(bert()).double().eval()
    hidden = plain(input_ids=value - 1, attention_mask=torch.ones_like(value))[0].mean(1)
    unit = torch.nn.functional.normalize(hidden, dim=1).detach()
    found = reader.centroids[reader.centroids.mv(unit[0]).argsort(descending=True)]
    torch.testing.assert_close(found, unit[[0, -1]], rtol=0, atol=1e-12)
    assert reader.seen is None


def test_it_learns_what_two_clusters_of_texts_need():
    adapter = Mor1e(rank=1, rank_out=2)
    made = build_adapted(bert(), adapter, 0).eval()
    value = torch.cat([texts(6).repeat(4, 1), (41 - texts(6)).clamp(min=1).repeat(4, 1)])
    adapter.begin(trunk_of(made), [batch_of(value)])
    before = states(made, value, [0] * 8).detach()
    sides = torch.tensor([1.0, -1.0]).repeat_interleave(4).unsqueeze(1)
    wanted = before + sides * torch.linspace(-0.4, 0.4, before.shape[1])
    optimizer = torch.optim.Adam(trunk_of(made).banks.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = (states(made, value, [0] * 8) - wanted).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.5 * (before - wanted).square().mean()


def test_too_few_texts_are_refused():
    adapter = Mor1e()
    made = build_adapted(bert(), adapter, 0)
    with pytest.raises(ValueError, match=r"32 experts, .* there are 3 texts"):
        adapter.begin(trunk_of(made), [batch_of(texts(3, 3, 3))])


def test_settings_are_checked():
    with pytest.raises(ValueError, match="no kind 'pair'; did you mean 'pairs'"):
        Mor1e(kind="pair")
    with pytest.raises(ValueError, match="rank must be at least 1"):
        Mor1e(rank_out=0)


def test_the_cost_of_a_layer_does_not_grow_with_the_experts_pairs():
    counts = []
    for out in (2, 3):
        made = network(rank=2, rank_out=out)
        counts.append(operations(lambda made=made: states(made, texts(3, 3), [0, 1])))
    assert counts[0] == counts[1]
