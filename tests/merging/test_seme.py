from __future__ import annotations

import numpy as np
import pytest

from plait.merging.average import Average
from plait.merging.pool import Pool, PoolError
from plait.merging.seme import Seme
from plait.merging.units import LLAMA

WIDTH, WORDS = 6, 11
State = dict[str, np.ndarray]


def llama(seed: int, words: int = WORDS) -> State:
    """One block without attention: the stream is read, changed and read out."""
    draw = np.random.default_rng(seed)
    shapes = {
        "model.embed_tokens.weight": (words, WIDTH),
        "model.layers.0.mlp.gate_proj.weight": (9, WIDTH),
        "model.layers.0.mlp.up_proj.weight": (9, WIDTH),
        "model.layers.0.mlp.down_proj.weight": (WIDTH, 9),
        "lm_head.weight": (words, WIDTH),
    }
    state = {name: draw.normal(size=shape) for name, shape in shapes.items()}
    return state | {"model.norm.weight": np.ones(WIDTH)}


def logits(state: State) -> np.ndarray:
    """[words, words]: what every word gives."""
    h = state["model.embed_tokens.weight"]
    at = "model.layers.0.mlp."
    gate, up = (h @ state[f"{at}{part}_proj.weight"].T for part in ("gate", "up"))
    h = h + (np.tanh(gate) * up) @ state[f"{at}down_proj.weight"].T
    h = h / np.sqrt((h**2).mean(1, keepdims=True)) * state["model.norm.weight"]
    return h @ state["lm_head.weight"].T


def rotated(state: State, seed: int) -> State:
    """The same model in another latent space."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)))
    found = {}
    for name, value in state.items():
        writes = name.endswith("down_proj.weight")
        found[name] = value if value.ndim == 1 else turn.T @ value if writes else value @ turn
    return found


def test_a_model_in_another_space_is_brought_back_exactly() -> None:
    state = llama(0)
    pool = Pool({"a": state, "b": rotated(state, 1), "c": rotated(state, 2)})
    np.testing.assert_allclose(logits(pool.models["b"]), logits(state))
    merged = Seme().merge(pool)
    for name, value in merged.tensors.items():
        np.testing.assert_allclose(value, state[name], atol=1e-10)
    assert merged.evidence["turned"]["a"] == pytest.approx(0, abs=1e-9)
    assert merged.evidence["turned"]["b"] > 0.5
    assert np.abs(logits(Average().merge(pool).tensors) - logits(state)).max() > 0.5


def test_the_map_is_the_least_squares_one_and_tensors_are_averaged_in_it() -> None:
    one, two = llama(0), llama(1)
    merged = Seme(rules=LLAMA).merge(Pool({"a": one, "b": two})).tensors
    q = np.linalg.lstsq(one["lm_head.weight"], two["lm_head.weight"], rcond=None)[0]
    name = "model.layers.0.mlp.down_proj.weight"
    np.testing.assert_allclose(merged[name], (one[name] + q @ two[name]) / 2, atol=1e-9)
    name = "model.layers.0.mlp.up_proj.weight"
    back = np.linalg.inv(q)
    np.testing.assert_allclose(merged[name], (one[name] + two[name] @ back) / 2, atol=1e-8)


def test_directions_that_no_word_sees_stay_as_they_are() -> None:
    state = llama(0, words=4)  # fewer words than directions
    merged = Seme().merge(Pool({"a": state, "b": dict(state)}))
    for name, value in merged.tensors.items():
        np.testing.assert_allclose(value, state[name], atol=1e-8)


def test_a_head_that_is_not_there_or_does_not_fit_is_named() -> None:
    state = llama(0)
    with pytest.raises(PoolError, match=r"the head 'cls\.weight' is not there; a matrix of 6 col"):
        Seme(head="cls.weight").merge(Pool({"a": state}))
    with pytest.raises(PoolError, match=r"the head 'model\.norm\.weight' is \[6\]"):
        Seme(head="model.norm.weight").merge(Pool({"a": state}))
    with pytest.raises(PoolError, match="no rule says which tensors write and read the 'stream'"):
        Seme(rules={"lm_head.weight": [None, "other"]}).merge(Pool({"a": state}))
