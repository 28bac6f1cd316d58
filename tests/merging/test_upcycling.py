from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from plait.merging.pool import Pool, PoolError
from plait.merging.upcycling import upcycle
from plait.weights.sinks import Memory
from plait.weights.states import write_state

CONFIG = {"model_type": "llama", "hidden_size": 4, "mlp_bias": False}


def dense(seed: int, dtype: type = np.float16) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (7, 4)}
    for layer in range(2):
        start = f"model.layers.{layer}"
        shapes |= {f"{start}.self_attn.q_proj.weight": (4, 4)}
        shapes |= {f"{start}.mlp.{part}_proj.weight": (6, 4) for part in ("gate", "up")}
        shapes |= {f"{start}.mlp.down_proj.weight": (4, 6)}
    return {name: draw.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def made(pool: Pool, **settings: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    sink = Memory()
    config = upcycle(pool, CONFIG, sink, **settings)
    return dict(sink.tensors), config


def test_every_model_is_an_expert_and_all_else_is_the_bases() -> None:
    models = {f"m{i}": dense(i) for i in range(3)}
    base = dense(9)
    with patch("plait.merging.upcycling.BLOCK", 8):
        tensors, config = made(Pool(models, base), chosen=1)
    for layer in range(2):
        for number, model in enumerate(models.values()):
            for part, name in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
                found = tensors[
                    f"model.layers.{layer}.block_sparse_moe.experts.{number}.{name}.weight"
                ]
                wanted = model[f"model.layers.{layer}.mlp.{part}_proj.weight"]
                np.testing.assert_array_equal(found, wanted)
    for name in ("model.embed_tokens.weight", "model.layers.1.self_attn.q_proj.weight"):
        np.testing.assert_array_equal(tensors[name], base[name])
    assert len(tensors) == 1 + 2 * (1 + 9 + 1)
    assert config["num_experts_per_tok"] == 1
    assert "mlp_bias" not in config


def test_routers_are_seeded_and_differ_by_layer() -> None:
    pool = Pool({f"m{i}": dense(i, np.float32) for i in range(2)})
    one, again, other = (made(pool, seed=seed)[0] for seed in (0, 0, 1))
    gates = [f"model.layers.{layer}.block_sparse_moe.gate.weight" for layer in range(2)]
    np.testing.assert_array_equal(one[gates[0]], again[gates[0]])
    assert (one[gates[0]] != other[gates[0]]).any()
    assert (one[gates[0]] != one[gates[1]]).any()
    assert one[gates[0]].shape == (2, 4)
    assert 0 < np.abs(one[gates[0]]).max() <= 0.5


def test_what_makes_no_mixture_is_refused() -> None:
    pool = Pool({f"m{i}": dense(i) for i in range(2)})
    with pytest.raises(PoolError, match="a gpt2 becomes no mixture; llama and mistral"):
        upcycle(pool, {"model_type": "gpt2"}, Memory())
    with pytest.raises(PoolError, match="3 experts cannot be chosen among 2"):
        upcycle(pool, CONFIG, Memory(), chosen=3)
    biased = {**dense(0), "model.layers.0.mlp.up_proj.bias": np.ones(6, np.float16)}
    with pytest.raises(PoolError, match=r"up_proj\.bias': Mixtral's experts have no biases"):
        upcycle(Pool({"a": biased, "b": biased}), CONFIG, Memory())
    with pytest.raises(PoolError, match="no experts"):
        upcycle(Pool({"a": {"w": np.ones(2)}, "b": {"w": np.ones(2)}}), CONFIG, Memory())


@pytest.mark.slow
def test_equal_experts_are_the_dense_model_in_transformers(tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=31, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=None,
    )  # fmt: skip
    model = transformers.MistralForCausalLM(config).eval()
    state = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    sink = Memory()
    found = upcycle(Pool({"a": state, "b": state, "c": state}), config.to_dict(), sink)
    write_state(tmp_path / "model.safetensors", sink.tensors, {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(found), "utf-8")
    mixture, report = transformers.MixtralForCausalLM.from_pretrained(
        str(tmp_path), output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    words = torch.randint(31, (2, 9))
    with torch.no_grad():
        wanted, got = model(words).logits, mixture.eval()(words).logits
    np.testing.assert_allclose(got, wanted, atol=1e-5)
