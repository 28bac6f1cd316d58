from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from plait.cli.main import run
from plait.weights.files import verify
from plait.weights.states import read_state, write_state

State = dict[str, np.ndarray]
CONFIG = {"model_type": "llama", "hidden_size": 4, "num_hidden_layers": 3}


def llama(
    folder: Path, seed: int, near: dict[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    state = {"model.embed_tokens.weight": draw.normal(size=(7, 4))}
    for layer in range(3):
        at = f"model.layers.{layer}."
        state |= {f"{at}self_attn.q_proj.weight": draw.normal(size=(4, 4)),
                  f"{at}mlp.gate_proj.weight": draw.normal(size=(6, 4)),
                  f"{at}mlp.up_proj.weight": draw.normal(size=(6, 4)),
                  f"{at}mlp.down_proj.weight": draw.normal(size=(4, 6))}  # fmt: skip
    state = {name: value.astype(np.float32) for name, value in (near or state).items()}
    folder.mkdir()
    write_state(folder / "model.safetensors", state)
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    return state


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    base = llama(tmp_path / "base", 0)
    llama(tmp_path / "code", 1)
    draw = np.random.default_rng(2)
    change = np.outer(draw.normal(size=4), draw.normal(size=4)).astype(np.float32)
    name = "model.layers.1.self_attn.q_proj.weight"
    llama(tmp_path / "math", 0, {**base, name: base[name] + change})
    return tmp_path


def plait(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        run([*words])
    return int(left.value.code or 0)


def test_an_adapter_is_extracted_and_merges_back_to_the_model(place: Path, capsys) -> None:
    assert plait("extract", "math", "--base", "base", "-o", "adapter") == 0
    assert "adapter: 1 layers of rank 1 at most" in capsys.readouterr().out
    told = json.loads((place / "adapter" / "adapter_config.json").read_text("utf-8"))
    assert told["base_model_name_or_path"] == "base"
    method = "{task_arithmetic: {scale: 1}}"
    assert plait("merge", "--method", method, "--base", "base", "adapter", "-o", "back") == 0
    back, math = (read_state(place / n / "model.safetensors") for n in ("back", "math"))
    for name, value in math.items():
        np.testing.assert_allclose(back[name], value, atol=1e-6)


def test_blocks_are_stacked_with_their_configuration(place: Path, capsys) -> None:
    assert plait("stack", "base:0:2", "code:1:3", "-o", "tall") == 0
    assert "tall: 4 blocks" in capsys.readouterr().out
    verify(place / "tall")
    assert json.loads((place / "tall" / "config.json").read_text("utf-8"))["num_hidden_layers"] == 4
    tall, code = (read_state(place / n / "model.safetensors") for n in ("tall", "code"))
    part = "self_attn.q_proj.weight"
    assert np.array_equal(tall[f"model.layers.3.{part}"], code[f"model.layers.2.{part}"])


def test_dense_models_become_a_mixture(place: Path, capsys) -> None:
    assert plait("upcycle", "math", "code", "--base", "base", "-o", "mixture") == 0
    assert "2 experts, 2 for a token" in capsys.readouterr().out
    told = json.loads((place / "mixture" / "config.json").read_text("utf-8"))
    assert (told["model_type"], told["num_local_experts"]) == ("mixtral", 2)
    state = read_state(place / "mixture" / "model.safetensors")
    assert state["model.layers.0.block_sparse_moe.experts.1.w1.weight"].shape == (6, 4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stack", "base:0", "-o", "x"], "'base:0' is no MODEL:START:STOP, such as model:0:8"),
        (["stack", "base:0:9", "-o", "x"], "'base' has blocks 0 to 2, not all of 0 to 8"),
        (["stack", "base:0:1", "-o", "math"], "math is there already"),
        (["extract", "base", "--base", "base", "-o", "x"], "no matrix has changed"),
        (["extract", "math", "--base", "base", "-o", "code"], "code is there already"),
        (["extract", "math", "--base", "base", "-o", "x", "--rank", "0"], "rank is at least 1"),
        (["upcycle", "math", "-o", "x"], "2 experts cannot be chosen among 1 models"),
        (["upcycle", "math", "nowhere", "-o", "x"], "no such file or folder"),
    ],
)
def test_a_mistake_is_one_clear_sentence(place: Path, capsys, words: list[str], said: str) -> None:
    assert plait(*words) == 1
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
    assert not (place / "x").exists()


def test_a_model_without_a_configuration_is_named(place: Path, capsys) -> None:
    (place / "base" / "config.json").unlink()
    assert plait("stack", "base:0:1", "-o", "x") == 1
    assert "base/config.json is missing" in capsys.readouterr().err
