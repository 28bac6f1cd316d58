"""Merged folders as others meet them: loaded by transformers, read as a page, compared by words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from plait.merging.average import Average
from plait.merging.card import card
from plait.merging.jobs import Job
from plait.merging.pool import PoolError
from plait.merging.task_arithmetic import TaskArithmetic
from plait.recipes.document import RecipeError
from plait.recipes.merge import read_merge
from plait.weights.checkpoints import INDEX, open_checkpoint
from plait.weights.companions import MOST, companions, tokenizer_differences
from plait.weights.files import DamagedError
from plait.weights.states import read_state, write_state

LLAMA: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_a_merged_folder_loads_in_transformers_with_the_merged_weights(
    tmp_path: Path, kind: str
) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    dtype, states = getattr(torch, kind), {}
    for seed, name in enumerate(("base", "math", "code")):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).to(dtype)
        model.generation_config.max_new_tokens = 7
        model.save_pretrained(tmp_path / name, max_shard_size="4KB")
        states[name] = model.state_dict()
    assert (tmp_path / "base" / INDEX).is_file()
    models = {name: tmp_path / name for name in ("math", "code")}
    job = Job(models=models, base=tmp_path / "base", method=TaskArithmetic(scale=0.5))
    job.run(tmp_path / "out", shard=4000, workers=2)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    loaded, told = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True, dtype="auto"
    )
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.generation_config.max_new_tokens == 7
    for name, value in loaded.state_dict().items():
        base, *others = (state[name].double() for state in states.values())
        wanted = base + 0.5 * sum(other - base for other in others)
        assert value.dtype == dtype
        rtol = 1e-5 if kind == "float32" else 2**-8  # half a step of bfloat16, and one ulp to spare
        torch.testing.assert_close(value.double(), wanted, rtol=rtol, atol=1e-6)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    loaded(torch.tensor([[1, 2, 3]]))


def about(name: str, path: str) -> dict[str, Any]:
    return {
        "recipe": {"models": {name: path}, "method": {"ties": {"keep": 0.2}}},
        "summary": "The mean.",
        "needs": [],
        "parents": {name: {"path": path}},
        "kinship": {
            "distances": {name: 0.1}, "cosines": [[name, name, 1.0]], "doubts": [f"{name} is odd"],
        },
        "tensors": [{"name": name, "type": "float32", "norm": 1.0, "change": 0.5}],
    }  # fmt: skip


@pytest.mark.parametrize(
    "hostile",
    [
        "a | b\n| c | d |",
        "<script>alert(1)</script>",
        "[x](javascript:alert(1))",
        "---\nbase_model: evil/evil\n---",
        "```\n# Heading",
        "\x1b[31mred\u202e",
        "![x](https://example.org/x.png)",
    ],
)
def test_no_name_leaves_its_cell_of_the_card(hostile: str) -> None:
    text = card(about(hostile, hostile), [])
    front, page = text.split("---\n", 2)[1:]
    assert front == "tags: [merge, plait]\n"
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    kinds = [token.type for token in tokens]
    assert kinds.count("table_open") == 2
    assert kinds.count("tr_open") == 4  # a head and a row each
    assert kinds.count("fence") == 1
    assert kinds.count("heading_open") == 1
    inner = {child.type for token in tokens for child in token.children or ()}
    assert inner <= {"text", "code_inline", "softbreak"}
    assert "html_block" not in kinds
    assert not set(text) & {"\x1b", "\u202e"}
    recipe = next(token.content for token in tokens if token.type == "fence")
    assert json.loads(recipe)["models"] == {hostile: hostile}


def test_parents_on_the_hub_are_told_in_the_front_matter() -> None:
    front = card(about("a", "owner/model"), [Path("config.json")]).split("---\n")[1]
    assert 'base_model: ["owner/model"]' in front
    assert "library_name: transformers" in front
    assert "base_model" not in card(about("a", "a/b: c"), []).split("---\n")[1]


def tokenizer(folder: Path, words: list[str], *, unigram: bool = False, **settings: Any) -> Path:
    folder.mkdir()
    vocabulary: Any = {word: number for number, word in enumerate(words)}
    if unigram:
        vocabulary = [[word, -1.0] for word in words]
    added = [{"content": "<s>", "id": len(words)}]
    told = {"model": {"vocab": vocabulary}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(told), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return folder


@pytest.mark.parametrize("unigram", [False, True])
def test_tokenizers_are_compared_word_by_word(tmp_path: Path, unigram: bool) -> None:
    one = tokenizer(tmp_path / "one", ["a", "b", "c"], unigram=unigram)
    same = tokenizer(tmp_path / "same", ["a", "b", "c"], unigram=unigram)
    other = tokenizer(tmp_path / "other", ["a", "c", "b", "d", "e"], unigram=unigram)
    assert list(tokenizer_differences(one, same)) == []
    assert list(tokenizer_differences(one, other)) == [
        "it adds 'd', 'e'",
        "it numbers otherwise 'b', 'c', '<s>'",
    ]
    assert next(iter(tokenizer_differences(other, one))) == "it lacks 'd', 'e'"
    long = tokenizer(tmp_path / "long", ["a", "b", "c", *map(str, range(2000))], unigram=unigram)
    assert next(iter(tokenizer_differences(one, long))).endswith("'4' and 1,995 more")


def test_special_words_and_chat_templates_are_compared(tmp_path: Path) -> None:
    token = {"content": "</s>", "lstrip": False}
    one = tokenizer(tmp_path / "one", ["a"], eos_token="</s>", chat_template="{{ x }}")
    same = tokenizer(tmp_path / "same", ["a"], eos_token=token, chat_template="{{ x }}")
    other = tokenizer(tmp_path / "other", ["a"], eos_token="<end>", chat_template="y" * 900)
    assert list(tokenizer_differences(one, same)) == []
    eos, template = tokenizer_differences(one, other)
    assert eos == "its eos_token is '<end>', not '</s>'"
    assert template.endswith("…, not '{{ x }}'")
    assert len(template) < 100


def test_models_with_other_words_are_refused_unless_the_bases_are_taken(tmp_path: Path) -> None:
    for name, words in (("base", ["a", "b"]), ("math", ["b", "a"])):
        write_state(
            tokenizer(tmp_path / name, words) / "model.safetensors",
            {"w": np.full(2, len(name), np.float32)},
        )
    given = {"models": {"math": tmp_path / "math"}, "base": tmp_path / "base"}
    with pytest.raises(PoolError, match="numbers otherwise 'a', 'b'; merging would mix up words"):
        Job(**given, method=TaskArithmetic(scale=1.0)).pool()
    job = Job(**given, method=TaskArithmetic(scale=1.0), tokenizer="base")
    job.run(tmp_path / "out")
    mine = (tmp_path / "base" / "tokenizer.json").read_bytes()
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == mine


def test_what_belongs_to_the_model_is_carried_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    tokenizer(folder, ["a"])
    write_state(folder / "model.safetensors", {"w": np.ones(2, np.float32)})
    for name in ("config.json", "chat_template.jinja", "merges.txt"):
        (folder / name).write_text(name, "utf-8")
    for name in ("modeling_evil.py", "pytorch_model.bin", "README.md", "optimizer.pt", ".env"):
        (folder / name).write_text("not carried", "utf-8")
    Job(models={"a": folder}, method=Average()).run(tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "config.json", "chat_template.jinja", "merges.txt", "tokenizer.json",
        "tokenizer_config.json", "model.safetensors", "merge.json", "README.md", "manifest.json",
    }  # fmt: skip
    assert (tmp_path / "out" / "merges.txt").read_text("utf-8") == "merges.txt"
    assert open_checkpoint(tmp_path / "out").stored("w", 0, 2).tolist() == [1, 1]


def test_carried_files_are_no_links_out_of_the_folder_and_not_huge(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key", "utf-8")
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "config.json").symlink_to(secret)
    with pytest.raises(DamagedError, match=r"config\.json is a link out of its folder"):
        companions(folder)
    (folder / "config.json").unlink()
    with (folder / "vocab.txt").open("wb") as file:
        file.truncate(MOST + 1)
    with pytest.raises(DamagedError, match=r"vocab\.txt: 268,435,457 bytes; 268,435,456 are"):
        companions(folder)


def test_a_tokenizer_that_is_no_json_is_named(tmp_path: Path) -> None:
    one = tokenizer(tmp_path / "one", ["a"])
    (one / "tokenizer.json").write_text("[" * 100_000, "utf-8")
    with pytest.raises(DamagedError, match=r"tokenizer\.json: not readable as JSON"):
        list(tokenizer_differences(one, one))


STEPS = """
base: base
models:
  mixed: {base: base, models: {math: math, code: code}, method: {task_arithmetic: {scale: 0.5}}}
  chat: chat
method: {task_arithmetic: {scale: 0.5}}
"""


def pool_of_steps(place: Path) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    states = {}
    for name in ("base", "math", "code", "chat"):
        states[name] = {"w": draw.normal(size=9).astype(np.float32)}
        (place / name).mkdir()
        write_state(place / name / "model.safetensors", states[name])
    (place / "steps.yaml").write_text(STEPS, "utf-8")
    return {name: state["w"] for name, state in states.items()}


def test_a_model_may_be_a_recipe_that_is_merged_first(tmp_path: Path) -> None:
    w = pool_of_steps(tmp_path)
    job = read_merge(tmp_path / "steps.yaml")
    assert list(job.steps) == ["mixed"]
    job.run(tmp_path / "out")
    mixed = w["base"] + 0.5 * (w["math"] + w["code"] - 2 * w["base"])
    wanted = w["base"] + 0.5 * (mixed + w["chat"] - 2 * w["base"])
    found = read_state(tmp_path / "out" / "model.safetensors")["w"]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert not list(tmp_path.glob(".*"))  # the step is gone
    told = json.loads((tmp_path / "out" / "merge.json").read_text("utf-8"))
    assert list(told["parents"]) == ["base", "mixed/base", "mixed/math", "mixed/code", "chat"]
    assert told["recipe"]["models"]["mixed"]["method"] == {"task_arithmetic": {"scale": 0.5}}
    (tmp_path / "again.yaml").write_text(json.dumps(told["recipe"]), "utf-8")
    read_merge(tmp_path / "again.yaml").run(tmp_path / "again")
    again = read_state(tmp_path / "again" / "model.safetensors")["w"]
    assert again.tobytes() == found.tobytes()


def test_a_step_that_is_there_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool_of_steps(tmp_path)
    made: list[str] = []

    def card_of(about: dict[str, Any], _: Any) -> str:
        made.append(", ".join(about["recipe"]["models"]))
        if len(made) == 2:
            raise InterruptedError
        return "card"

    monkeypatch.setattr("plait.merging.jobs.card", card_of)
    job = read_merge(tmp_path / "steps.yaml")
    with pytest.raises(InterruptedError):
        job.run(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    job.run(tmp_path / "out")
    assert made == ["math, code", "mixed, chat", "mixed, chat"]
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_all_steps_are_compared_before_the_first_is_made(tmp_path: Path) -> None:
    pool_of_steps(tmp_path)
    write_state(tmp_path / "chat" / "model.safetensors", {"v": np.ones(9, np.float32)})
    write_state(tmp_path / "code" / "model.safetensors", {"w": np.ones(3, np.float32)})
    job = read_merge(tmp_path / "steps.yaml")
    with pytest.raises(PoolError, match=r"mixed: cannot merge: 'w' is \[3\] in 'code' and \[9\]"):
        job.run(tmp_path / "out")
    write_state(tmp_path / "code" / "model.safetensors", {"w": np.ones(9, np.float32)})
    with pytest.raises(PoolError, match="'chat' lacks 'w' of the base"):
        job.run(tmp_path / "out")
    assert not list(tmp_path.glob(".*"))


def test_mistakes_of_a_step_have_their_lines(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "models:\n  mixed:\n    modles: [a]\n    method: tie\n  b: b\nmethod: average\n", "utf-8"
    )
    with pytest.raises(RecipeError) as error:
        read_merge(tmp_path / "r.yaml")
    told = str(error.value)
    assert "r.yaml:3: models.mixed.modles: " in told
    assert "did you mean 'models'?" in told
    assert "r.yaml:4:" in told
