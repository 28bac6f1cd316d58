from __future__ import annotations

import json

import pytest
import torch
from adapter_nets import TINY, bert, filled, model_of, trunk_of

from plait.adapting import build_adapted
from plait.adapting.prompt import Prompt
from plait.adapting.prompt_transfer import PromptTransfer
from plait.adapting.relative import cosines, search, spread
from plait.task import Task, TaskSet

pytest.importorskip("transformers")

DRAW = torch.Generator().manual_seed(0)
WORDS = torch.randn(60, 12, generator=DRAW)


def spelled(prompts, words):
    """Prompts whose numbers are spread as those of all embeddings, as the search gives them."""
    mean, std = prompts.mean((1, 2), keepdim=True), prompts.std((1, 2), keepdim=True)
    return (prompts - mean) / std * words.std() + words.mean()


TRUE = spelled(torch.randn(3, 4, 12, generator=DRAW), WORDS)


def prompt_of(network):
    (bank,) = trunk_of(network).banks.values()
    return bank.prompt.detach()


def found(codes, anchors=WORDS, **settings):
    settings = {"top": 0, "steps": 300, "rate": 0.05, **settings}
    start = torch.randn(3, 4, 12, generator=torch.Generator().manual_seed(1)) * 0.3
    return search(codes, anchors, start, spread(WORDS), **settings)


def alike(one, two):
    return torch.nn.functional.cosine_similarity(one, two, dim=-1).min()


def test_from_a_model_to_itself_the_same_directions_come_back():
    assert alike(found([cosines(TRUE, WORDS)]), TRUE) > 0.999


def test_a_model_whose_embeddings_are_turned_gets_the_turned_prompts():
    turn = torch.eye(12)
    for _ in range(5):  # reflections that keep every vector's mean, so the spread is the same
        v = torch.randn(12, generator=DRAW)
        v = torch.nn.functional.normalize(v - v.mean(), dim=0)
        turn = turn - 2 * torch.outer(turn @ v, v)
    there = found([cosines(TRUE, WORDS)], WORDS @ turn)
    assert alike(there, TRUE @ turn) > 0.999


def test_numbers_are_spread_as_those_of_all_embeddings():
    there = found([cosines(TRUE, WORDS)], steps=3)
    torch.testing.assert_close(there.mean((1, 2)), WORDS.mean().expand(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(there.std((1, 2)), WORDS.std().expand(3), rtol=0, atol=1e-5)


def test_a_step_is_that_of_the_loss_as_written():
    """Masks, cosines of cosines, their mean over vectors and sources, one step of Adam."""
    codes = [cosines(TRUE, WORDS), cosines(TRUE.flip(0), WORDS)]
    start = torch.randn(3, 4, 12, generator=torch.Generator().manual_seed(1)) * 0.3
    there = found(codes, top=7, steps=1)
    for task in range(3):
        v = start[task].clone().requires_grad_()
        spelled = (v - v.mean()) / v.std() * WORDS.std() + WORDS.mean()
        losses = []
        for code in codes:
            for i in range(4):
                c = code[task, i]
                kept = c >= c.sort(descending=True).values[6]
                mine = WORDS @ spelled[i] / (WORDS.norm(dim=1) * spelled[i].norm()) * kept
                losses.append(1 - mine @ (c * kept) / (mine.norm() * (c * kept).norm()))
        (grad,) = torch.autograd.grad(sum(losses) / 8, v)
        after = start[task] - 0.05 * grad / (grad.abs() + 1e-8)
        wanted = (after - after.mean()) / after.std() * WORDS.std() + WORDS.mean()
        torch.testing.assert_close(there[task], wanted, rtol=0, atol=2e-4)


def source(folder, **settings):
    network = build_adapted(bert(**settings), Prompt(length=3), 0)
    filled(trunk_of(network).banks)
    words = model_of(bert()).embeddings.word_embeddings.weight.detach()
    prompt_of(network).copy_(spelled(prompt_of(network), words))
    network.save_pretrained(folder)
    return network


def begun(network, **settings):
    adapter = PromptTransfer(length=3, **settings)
    made = build_adapted(network, adapter, 0)
    adapter.begin(made.trunk, [])
    return made


def test_prompts_of_a_saved_network_start_here(tmp_path):
    theirs = source(tmp_path)
    made = begun(bert(), sources=[str(tmp_path)], steps=400, rate=0.05)
    assert alike(prompt_of(made), prompt_of(theirs)) > 0.999
    words = model_of(bert()).embeddings.word_embeddings.weight
    torch.testing.assert_close(prompt_of(made).std((1, 2)), words.std().expand(3))


def test_tasks_are_found_by_name_and_anchors_by_their_tokens(tmp_path):
    theirs = source(tmp_path / "run")
    order = torch.randperm(TINY["vocab_size"], generator=torch.Generator().manual_seed(2))
    other = bert(tasks=TaskSet([Task(name="a/b"), Task(name="type")]))
    words = model_of(other).embeddings.word_embeddings
    words.weight.data = words.weight.data[order]  # token i here is token order[i] there
    rows = [[int(there), here] for here, there in enumerate(order)][:35]
    (tmp_path / "anchors.json").write_text(json.dumps(rows), "utf-8")
    made = begun(
        other, sources=[str(tmp_path / "run")], anchors=str(tmp_path / "anchors.json"),
        steps=400, rate=0.05,
    )  # fmt: skip
    assert alike(prompt_of(made), prompt_of(theirs)[[2, 0]]) > 0.999


def test_what_does_not_fit_is_told_before_the_search(tmp_path):
    source(tmp_path / "run")
    given = {"sources": [str(tmp_path / "run")]}
    (tmp_path / "anchors.json").write_text("[[1, 2], [3, 99]]", "utf-8")
    bert().save_pretrained(tmp_path / "plain")
    for network, settings, said in (
        (bert(), {}, "needs sources"),
        (bert(), {"sources": [str(tmp_path / "plain")]}, "no network with prompts"),
        (bert(tasks=TaskSet([Task(name="new")])), given, "no prompt of task 'new'"),
        (bert(), {**given, "anchors": str(tmp_path / "anchors.json")}, "rows of 2 token numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            begun(network, **settings)
    other = PromptTransfer(length=4, **given)
    made = build_adapted(bert(), other, 0)
    with pytest.raises(ValueError, match="has prompts of length 3; set length"):
        other.begin(made.trunk, [])
    with pytest.raises(ValueError, match="steps must be at least 1"):
        PromptTransfer(steps=0)
