from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from plait.merging.pool import PoolError
from plait.merging.stacking import stack
from plait.weights.checkpoints import open_checkpoint
from plait.weights.folders import Folder
from plait.weights.sinks import Memory
from plait.weights.states import write_state

CONFIG = {"num_hidden_layers": 3, "layer_types": ["x", "y", "z"]}


def model(seed: int, layers: int = 3) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    state = {"embed.weight": draw.normal(size=(5, 4)).astype(np.float16)}
    for layer in range(layers):
        state[f"model.layers.{layer}.fc.weight"] = draw.normal(size=(4, 4)).astype(np.float16)
        state[f"model.layers.{layer}.fc.2.bias"] = draw.normal(size=4).astype(np.float32)
        state[f"model.layers.{layer}.seen"] = np.asarray(10 * seed + layer)
    return state


def test_blocks_are_copied_and_numbered_through() -> None:
    models = {"a": model(1), "b": model(2, layers=4)}
    slices = [("a", 0, 2), ("b", 1, 4), ("a", 1, 2)]
    sink = Memory()
    with patch("plait.merging.stacking.BLOCK", 8):
        config = stack(models, slices, CONFIG, sink, workers=2)
    wanted = [("a", 0), ("a", 1), ("b", 1), ("b", 2), ("b", 3), ("a", 1)]
    assert config == {"num_hidden_layers": 6, "layer_types": ["x", "y", "y", "z", "x", "y"]}
    assert len(sink.tensors) == 1 + 3 * 6
    for number, (name, depth) in enumerate(wanted):
        for part in ("fc.weight", "fc.2.bias", "seen"):
            found = sink.tensors[f"model.layers.{number}.{part}"]
            source = models[name][f"model.layers.{depth}.{part}"]
            np.testing.assert_array_equal(found, source)
            assert found.dtype == source.dtype
    np.testing.assert_array_equal(sink.tensors["embed.weight"], models["a"]["embed.weight"])
    other = Memory()
    stack(models, slices, CONFIG, other, outside="b")
    np.testing.assert_array_equal(other.tensors["embed.weight"], models["b"]["embed.weight"])


def test_files_give_the_same_as_memory(tmp_path: Path) -> None:
    state = model(1)
    write_state(tmp_path / "a.safetensors", state)
    slices = [("a", 0, 3), ("a", 0, 3)]
    sink = Folder(tmp_path / "out", "stacked", shard=100)
    stack({"a": open_checkpoint(tmp_path / "a.safetensors")}, slices, CONFIG, sink)
    wanted = Memory()
    stack({"a": state}, slices, CONFIG, wanted)
    assert set(sink.tensors) == set(wanted.tensors)
    for name, value in wanted.tensors.items():
        np.testing.assert_array_equal(sink.tensors[name], value)


def test_what_cannot_be_stacked_is_refused() -> None:
    models = {"a": model(1), "b": model(2)}
    for slices, words in (
        ([], "at least one slice"),
        ([("c", 0, 1)], "no model 'c'; there are a, b"),
        ([("a", 0, 4)], "'a' has blocks 0 to 2, not all of 0 to 3"),
        ([("a", 2, 2)], "blocks 0 to 2"),
    ):
        with pytest.raises(PoolError, match=words):
            stack(models, slices, CONFIG, Memory())
    wide = {**model(2), "model.layers.1.fc.weight": np.ones((4, 5), np.float16)}
    with pytest.raises(PoolError, match="block 1 of 'b' is built otherwise than block 0 of 'a'"):
        stack({"a": model(1), "b": wide}, [("a", 0, 1), ("b", 0, 2)], CONFIG, Memory())
    broken = {**model(1), "model.layers.0.fc.weight": np.full((4, 4), np.nan, np.float16)}
    with pytest.raises(PoolError, match="NaN"):
        stack({"a": broken}, [("a", 0, 1)], CONFIG, Memory())
    with pytest.raises(PoolError, match="the configuration has none of num_hidden_layers"):
        stack(models, [("a", 0, 1)], {}, Memory())


@pytest.mark.slow
def test_transformers_runs_it_as_the_same_layers_in_a_row(tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=31, hidden_size=16, intermediate_size=24, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    dense = transformers.LlamaForCausalLM(config).eval()
    state = {name: value.numpy().copy() for name, value in dense.state_dict().items()}
    sink = Memory()
    found = stack({"a": state}, [("a", 0, 2), ("a", 1, 3)], config.to_dict(), sink)
    write_state(tmp_path / "model.safetensors", sink.tensors, {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(found), "utf-8")
    stacked = transformers.LlamaForCausalLM.from_pretrained(str(tmp_path)).eval()
    words = torch.randint(31, (2, 9))
    layers = dense.model.layers
    dense.model.layers = torch.nn.ModuleList([layers[0], layers[1], layers[1], layers[2]])
    dense.config.num_hidden_layers = 4
    with torch.no_grad():
        wanted = dense(words, use_cache=False).logits
        got = stacked(words, use_cache=False).logits
    np.testing.assert_allclose(got, wanted, atol=1e-5)
