from __future__ import annotations

import pytest
import torch
from adapter_nets import bert, filled, model_of, pooled, states, texts, trunk_of

from plait.adapting import build_adapted
from plait.adapting.files import save_adapter
from plait.adapting.lora import Lora
from plait.adapting.mpt import Mpt
from plait.adapting.prompt import Prompt
from plait.batch import Records
from plait.testing.toys import toy_tasks
from plait.weights.adapter_folders import read_adapter

pytest.importorskip("transformers")

MPT = Mpt(sources=Prompt(length=3), rank=2)


def both(adapter=MPT, moved=True):
    first = bert(adapter.trained_on).double().eval()
    network = build_adapted(first, adapter, 0).double().eval()
    if moved:
        filled(trunk_of(network).banks, seed=2)
    return first, network


def bank_of(network):
    (bank,) = trunk_of(network).banks.values()
    return bank


def test_equals_the_product_row_by_row():
    _, network = both()
    bank, plain = bank_of(network), model_of(bert()).double()
    value, task = texts(5, 5, 5), [2, 0, 1]
    found = states(network, value, task)
    for row, t in enumerate(task):
        rows, columns = bank.own.rows[t], bank.own.columns[t]
        scales = [rows[i, 0] * columns[0] + rows[i, 1] * columns[1] for i in range(3)]
        own = torch.stack([bank.common[0, i] * scales[i] for i in range(3)])
        words = plain.embeddings.word_embeddings.weight[value[row] - 1]
        hidden = plain(inputs_embeds=torch.cat([own, words]).unsqueeze(0))[0][:, 3:]
        wanted = pooled(hidden, value[[row]] > 0)
        torch.testing.assert_close(found[[row]], wanted, rtol=0, atol=1e-12)


def test_every_task_begins_with_the_shared_prompt():
    _, network = both(moved=False)
    bank = bank_of(network)
    for task in range(3):
        assert torch.equal(bank.prompts(torch.tensor([task]))[0], bank.common[0])
    value = texts(4, 4)
    assert torch.equal(states(network, value, [0, 1]), states(network, value, [2, 2]))


def test_a_student_that_is_its_teacher_pays_nothing_and_another_does():
    first, network = both(Mpt(sources=Prompt(length=3)))
    bank, teacher = bank_of(network), next(iter(trunk_of(first).banks.values()))
    asked = {"binary": Records(torch.tensor([1, 1]), torch.arange(2))}
    parts = {"a": {"text.review": texts(5, 3)}}
    network.train()
    assert network(parts, asked).penalties["teacher"] > 1e-3
    bank.common.data[0] = teacher.prompt[1]
    bank.own.rows.data[:], bank.own.columns.data[:] = 1.0, 1.0
    assert network(parts, asked).penalties["teacher"].abs() < 1e-12
    network.heads.banks["binary"].bias.data += 1.0
    assert network(parts, asked).penalties["teacher"] > 1e-3
    network.eval()
    assert not network(parts, asked).penalties


def test_the_penalty_is_the_formula_for_every_kind():
    tasks = toy_tasks(("binary", "real", "classes", "counts", "ordinal", "binary"))
    first = build_adapted(bert(tasks=tasks).double(), Prompt(length=3), 0).double().eval()
    filled(trunk_of(first).banks)
    network = build_adapted(first, Mpt(sources=Prompt(length=3), imitation=0.7), 0).double()
    filled(trunk_of(network).banks, seed=2)
    filled(network.heads, seed=3)
    value = texts(5, 3, 4)
    asked, total = {}, 0.0
    for group, found in tasks.groups.items():
        task = torch.arange(len(found.tasks)).repeat_interleave(2)
        asked[group] = Records(task, torch.tensor([0, 2] * len(found.tasks)))
    parts = {"a": {"text.review": value}}
    mine, theirs = network.eval()(parts, asked), first(parts, asked)
    for group, records in asked.items():
        for place in range(len(tasks.groups[group].tasks)):
            each = []
            for n in (records.task == place).nonzero().flatten():
                s, t = mine.raw[group][n], theirs.raw[group][n]
                h = mine.features[group].records[n] - theirs.features[group].records[n]
                each.append(APART[tasks.groups[group].kind](s, t) + (h @ h) / len(h))
            total += 0.7 * sum(each) / len(each)
    said = network.train()(parts, asked).penalties["teacher"]
    torch.testing.assert_close(said, total, rtol=1e-10, atol=1e-10)


def bernoulli(s, t):
    p, q = t.sigmoid(), s.sigmoid()
    return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()


def categorical(s, t):
    p, q = t.softmax(0), s.softmax(0)
    return (p * (p / q).log()).sum()


APART = {
    "binary": bernoulli,
    "ordinal": bernoulli,
    "classes": categorical,
    "real": lambda s, t: (s - t).square()[0],
    "counts": lambda s, t: (t.exp() * (t - s) - t.exp() + s.exp())[0],
}


def test_the_teacher_stands_still_and_reaches_no_gradient_of_its_own():
    first, network = both()
    asked = {"binary": Records(torch.tensor([0, 2]), torch.arange(2))}
    found = network.train()({"a": {"text.review": texts(5, 3)}}, asked)
    (found.raw["binary"].sum() + found.penalties["teacher"]).backward()
    trains = {name for name, p in network.named_parameters() if p.grad is not None}
    assert {name.split(".")[0] for name in trains} == {"heads", "trunk"}
    assert all(name.startswith(("heads.", "trunk.banks.")) for name in trains)
    value = texts(4, 6)
    taught = trunk_of(network).of_first(
        {"a": {"text.review": value}}, {"binary": Records(torch.tensor([0, 1]), torch.arange(2))}
    )
    assert torch.equal(taught["binary"].records, states(first, value, [0, 1]))


def test_a_task_exports_its_product_and_all_comes_back_from_a_folder(tmp_path):
    _, network = both()
    save_adapter(network.float(), "NR.AR", tmp_path / "task")
    given = read_adapter(tmp_path / "task").modules[""]["prompt_embeddings"]
    assert torch.equal(torch.from_numpy(given), bank_of(network).prompts(torch.tensor([1]))[0])
    network.save_pretrained(tmp_path / "all")
    again = type(network).from_pretrained(tmp_path / "all")
    for name, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_parameters_are_the_formulas_and_settings_are_checked():
    _, network = both()
    trained = sum(p.numel() for p in trunk_of(network).banks.parameters())
    assert trained == 3 * 16 + 3 * 2 * (3 + 16)
    with pytest.raises(ValueError, match="rank must be at least 1"):
        Mpt(rank=0)
    with pytest.raises(ValueError, match=r"rank 4 is above the smaller side .* 3 vectors of 16"):
        both(Mpt(sources=Prompt(length=3), rank=4))
    with pytest.raises(ValueError, match="imitation must not be negative"):
        Mpt(imitation=-1.0)
    with pytest.raises(ValueError, match="combines banks of type PromptBank"):
        both(Mpt(sources=Lora(rank=2)))
