from __future__ import annotations

import copy

import pytest
import torch

from plait.adapting import Lora, build_adapted
from plait.batch import Input, Records
from plait.networks import Network, build_network, lengths
from plait.sharing import Hard, Mmoe
from plait.testing.toys import toy_batch, toy_inputs, toy_tasks

TASKS = toy_tasks()
TINY = {
    "model_type": "bert", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64,
}  # fmt: skip
TEXT = {"text.review": Input(key="text.review", type="text", shape=(-1,), sizes=(41,))}


def mlp(sharing=None):
    return build_network(
        inputs=toy_inputs(), tasks=TASKS, sharing=sharing or Hard(), seed=0,
        encoder={"trunk": {"mlp": {"width": 8, "dropout": 0.5}}},
    )  # fmt: skip


def bert(**settings):
    return build_network(
        inputs=TEXT, tasks=TASKS, sharing=Hard(), seed=0,
        encoder={
            "text": {"transformer": {"config": TINY, **settings}}, "trunk": {"mlp": {"depth": 0}}
        },
    )  # fmt: skip


def filled(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.trunk.banks.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return network


def mixed_texts(*sizes):
    """Texts of these lengths, padded to the longest."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randint(1, 41, (len(sizes), max(sizes)), generator=generator)
    value[torch.arange(max(sizes)) >= torch.tensor(sizes)[:, None]] = 0
    return value


def two_parts():
    """Rows 0 to 3 in one schema, 4 to 6 in another; tasks on rows of both."""
    generator = torch.Generator().manual_seed(0)
    parts = {
        "a": {"numeric": torch.randn(4, 4, generator=generator)},
        "b": {"numeric": torch.randn(3, 4, generator=generator)},
    }
    asked = {
        "binary": Records(torch.tensor([0, 0, 1, 1]), torch.tensor([5, 1, 0, 6])),
        "real": Records(torch.tensor([0, 0]), torch.tensor([1, 4])),
    }
    return parts, asked


@pytest.mark.parametrize("sharing", [Hard(), Mmoe(experts=2, width=4)])
def test_starts_as_the_network_it_adapts(sharing):
    start = mlp(sharing).eval()
    parts, asked = two_parts()
    before, after = (
        start(parts, asked).raw,
        build_adapted(start, Lora(rank=2), seed=0)(parts, asked).raw,
    )
    for key in before:
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=1e-6)


def test_mixed_batches_equal_a_loop_over_tasks():
    adapted = filled(build_adapted(mlp(), Lora(rank=2), seed=0)).double()
    parts, asked = two_parts()
    parts = {s: {k: v.double() for k, v in part.items()} for s, part in parts.items()}
    mixed = adapted(parts, asked).raw
    for name in TASKS.names:
        key, place = TASKS[name].group, TASKS.groups[TASKS[name].group].position[name]
        if key not in asked:
            continue
        which = asked[key].task == place
        with adapted.trunk.folded(name):
            alone = adapted(parts, {key: asked[key].select(which)}).raw[key]
        torch.testing.assert_close(mixed[key][which], alone, rtol=0, atol=1e-12)


def test_folding_restores_the_weights_exactly_even_after_an_error():
    adapted = filled(build_adapted(mlp(), Lora(rank=2), seed=0))
    before = copy.deepcopy(adapted.state_dict())
    with pytest.raises(KeyboardInterrupt), adapted.trunk.folded("real.1"):
        raise KeyboardInterrupt
    assert all(torch.equal(before[n], t) for n, t in adapted.state_dict().items())
    with pytest.raises(KeyError, match=r"did you mean 'real\.1'"), adapted.trunk.folded("real.2"):
        pass


def test_only_adapters_and_heads_train_and_the_start_is_left_alone():
    start = mlp()
    before = copy.deepcopy(start.state_dict())
    adapted = build_adapted(start, Lora(rank=2), seed=0)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in adapted.named_parameters() if ".banks." in name}
    assert adapted.shared_parameters() == []
    batch = toy_batch(TASKS)
    adapted.train()
    sum(raw.square().sum() for raw in adapted(batch.parts, batch.labels).raw.values()).backward()
    torch.optim.SGD(adapted.parameters(), lr=0.1).step()
    assert all(p.requires_grad for p in start.parameters())
    assert all(torch.equal(before[n], t) for n, t in start.state_dict().items())
    frozen = dict(adapted.trunk.base.named_parameters())
    for name, tensor in start.trunk.named_parameters():
        twin = name.replace(".weight", ".base.weight").replace(".bias", ".base.bias")
        assert torch.equal(frozen[twin], tensor)


def test_training_one_task_leaves_the_others_outputs_bit_for_bit():
    adapted = filled(build_adapted(mlp(), Lora(rank=2), seed=0))
    batch = toy_batch(TASKS)
    before = adapted.predict(batch.parts, batch.labels)
    adapted.train()
    own = batch.only({"binary.2"})
    adapted(own.parts, own.labels).raw["binary"].sum().backward()
    torch.optim.SGD(adapted.parameters(), lr=0.5).step()
    after = adapted.predict(batch.parts, batch.labels)
    for key, labels in batch.labels.items():
        other = torch.ones(len(labels), dtype=torch.bool)
        if key == "binary":
            other = labels.task != TASKS.groups[key].position["binary.2"]
            assert not torch.equal(before[key][~other], after[key][~other])
        assert torch.equal(before[key][other], after[key][other])


def test_the_frozen_part_stays_in_evaluation_mode():
    adapted = build_adapted(mlp(), Lora(rank=2, dropout=0.1), seed=0).train()
    assert not any(module.training for module in adapted.trunk.base.modules())
    assert all(bank.training for bank in adapted.trunk.banks.values())
    adapted.eval()
    assert not any(module.training for module in adapted.modules())


def test_each_pair_runs_once():
    start = bert()
    seen = []
    adapted = build_adapted(start, Lora(rank=2), seed=0)
    stem = adapted.trunk.base.encoder.stems["text"]
    stem.model.register_forward_hook(lambda m, args, out: seen.append(len(out[0])))
    parts = {"a": {"text.review": torch.randint(1, 41, (5, 6))}}
    asked = {"binary": Records(torch.tensor([0, 0, 1]), torch.tensor([0, 3, 3]))}
    adapted(parts, asked)
    assert seen == [3]


def test_lora_sits_at_queries_and_values_inside_a_transformer():
    pytest.importorskip("transformers")
    adapted = filled(build_adapted(bert(), Lora(rank=2), seed=0))
    assert sorted(path.rpartition("%2E")[2] for path in adapted.trunk.banks) == [
        "query", "query", "value", "value",
    ]  # fmt: skip
    parts = {"a": {"text.review": torch.randint(1, 41, (5, 6))}}
    both = Records(torch.tensor([0, 1]), torch.tensor([2, 2]))
    first, second = adapted(parts, {"binary": both}).features["binary"].records
    assert not torch.allclose(first, second)


def test_cached_features_are_refused_where_a_site_lies_inside():
    pytest.importorskip("transformers")
    asked = {"binary": Records(torch.tensor([0]), torch.tensor([2]))}
    features = {"a": {"features.review": torch.randn(5, 16)}}
    assert bert()(features, asked).raw["binary"].shape == (1, 1)
    with pytest.raises(ValueError, match="adapted inside"):
        build_adapted(bert(), Lora(rank=2), seed=0)(features, asked)


def test_checkpointing_inside_the_backbone_keeps_the_route():
    pytest.importorskip("transformers")
    parts = {"a": {"text.review": torch.randint(1, 41, (5, 6))}}
    asked = {"binary": Records(torch.tensor([0, 0, 1]), torch.tensor([0, 3, 3]))}
    grads = []
    for checkpointing in (False, True):
        adapted = filled(
            build_adapted(bert(checkpointing=checkpointing), Lora(rank=2), seed=0)
        ).train()
        calls = []
        block = adapted.trunk.base.encoder.stems["text"].model.encoder.layer[0].attention.self.query
        block.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        outputs = [adapted(parts, asked).raw["binary"] for _ in range(2)]
        (outputs[0].sum() + outputs[1].square().sum()).backward()
        assert len(calls) == (4 if checkpointing else 2)
        grads.append([p.grad for p in adapted.trunk.banks.parameters()])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_texts_run_by_length_and_in_several_parts_follow_their_tasks(checkpointing, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(lengths, "CPU", (8, 64))
    adapted = build_adapted(bert(checkpointing=checkpointing), Lora(rank=2), seed=0)
    adapted = filled(adapted).double().train()
    parts = {
        "a": {"text.review": mixed_texts(30, 3, 4, 17, 3)},
        "b": {"text.review": mixed_texts(2, 21, 2), "numeric": torch.zeros(3, 4)},
    }
    asked = {
        "binary": Records(torch.tensor([0, 0, 0, 1, 1]), torch.tensor([5, 1, 3, 0, 6])),
        "real": Records(torch.tensor([0, 0, 0]), torch.tensor([1, 4, 7])),
    }

    def run(parts, asked):
        adapted.zero_grad()
        raw = adapted(parts, asked).raw
        sum(value.square().sum() for value in raw.values()).backward()
        return raw, [p.grad for p in adapted.trunk.banks.parameters()]

    raw, gradients = run(parts, asked)
    total = [torch.zeros_like(gradient) for gradient in gradients]
    for key, records in asked.items():
        for place, row in enumerate(records.rows.tolist()):
            part, local = ("a", row) if row < 5 else ("b", row - 5)
            text = parts[part]["text.review"][local]
            one = {"only": {"text.review": text[None, : int((text > 0).sum())]}}
            alone, own = run(one, {key: Records(records.task[[place]], torch.tensor([0]))})
            torch.testing.assert_close(raw[key][place], alone[key][0], rtol=0, atol=1e-12)
            total = [a if b is None else a + b for a, b in zip(total, own, strict=True)]
    for ours, theirs in zip(gradients, total, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_an_adapted_transformer_comes_back_exactly(tmp_path):
    pytest.importorskip("transformers")
    adapted = filled(build_adapted(bert(), Lora(rank=2, sites=["query", "key"]), seed=0))
    adapted.save_pretrained(tmp_path)
    again = Network.from_pretrained(tmp_path)
    parts = {"a": {"text.review": torch.randint(1, 41, (5, 6))}}
    asked = {"binary": Records(torch.tensor([0, 1]), torch.tensor([2, 2]))}
    assert torch.equal(
        again.predict(parts, asked)["binary"], adapted.predict(parts, asked)["binary"]
    )


def test_copies_route_by_themselves():
    adapted = filled(build_adapted(mlp(), Lora(rank=2), seed=0))
    copied = copy.deepcopy(adapted)
    parts, asked = two_parts()
    before = copied(parts, asked).raw["real"]
    for parameter in adapted.trunk.banks.parameters():
        parameter.data.zero_()
    assert torch.equal(copied(parts, asked).raw["real"], before)
    for parameter in copied.trunk.banks.parameters():
        parameter.data.zero_()
    assert not torch.equal(copied(parts, asked).raw["real"], before)
