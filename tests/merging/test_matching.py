from __future__ import annotations

import numpy as np
import pytest
from permuted import RULES, inputs, mlp, outputs, shuffled

from plait.merging.matching import assigned, match_weights
from plait.merging.pool import Pool, PoolError
from plait.merging.units import LLAMA, aligned, units


def test_layers_in_sequence_are_found_by_their_numbers() -> None:
    pool = Pool({"a": mlp(0)})
    found, said = units(pool, "sequence"), units(pool, RULES)
    assert found.sizes == said.sizes == {"0": 9, "1": 8}
    assert found.axes == said.axes


def test_norms_between_layers_and_flattened_maps_belong_to_the_layer_before() -> None:
    state = {
        "net.0.weight": np.ones((4, 3, 5, 5)),
        "net.0.bias": np.ones(4),
        "net.1.weight": np.ones(4),
        "net.1.running_var": np.ones(4),
        "net.5.weight": np.ones((6, 4 * 9)),
        "net.5.bias": np.ones(6),
    }
    found = units(Pool({"a": state}), "sequence")
    assert found.sizes == {"net.0": 4}
    spans = {name: [(one.axis, one.span, one.writes) for one in axes]
             for name, axes in found.axes.items()}  # fmt: skip
    assert spans == {
        "net.0.weight": [(0, 1, True)],
        "net.0.bias": [(0, 1, True)],
        "net.1.weight": [(0, 1, True)],
        "net.1.running_var": [(0, 1, True)],
        "net.5.weight": [(1, 9, False)],
    }
    assert "net.1.running_var" not in {one.site.name for one in found.of("net.0")}


def test_a_llama_has_its_stream_and_the_units_of_every_mlp() -> None:
    names = {"q_proj": (8, 8), "o_proj": (8, 8), "gate_proj": (12, 8), "up_proj": (12, 8),
             "down_proj": (8, 12)}  # fmt: skip
    state = {"model.embed_tokens.weight": np.ones((20, 8)), "model.norm.weight": np.ones(8)}
    for layer in range(2):
        for name, shape in names.items():
            home = "mlp" if name.endswith(("gate_proj", "up_proj", "down_proj")) else "self_attn"
            state[f"model.layers.{layer}.{home}.{name}.weight"] = np.ones(shape)
        state[f"model.layers.{layer}.input_layernorm.weight"] = np.ones(8)
    found = units(Pool({"a": state}), None)
    assert found.sizes == {"stream": 8, "model.layers.0.mlp": 12, "model.layers.1.mlp": 12}
    (embedding,) = found.axes["model.embed_tokens.weight"]
    assert (embedding.axis, embedding.writes) == (1, True)
    assert found.axes["model.layers.1.self_attn.q_proj.weight"][0].axis == 1
    assert found == units(Pool({"a": state}), LLAMA)
    with pytest.raises(PoolError, match=r"'model\.layers\.0\.mlp\.router\.weight' has no place"):
        units(Pool({"a": state | {"model.layers.0.mlp.router.weight": np.ones((2, 8))}}), None)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"9.weight": ["x"]}, r"no tensor has a name that fits '9\.weight'"),
        ({"0.bias": ["x", "y"]}, r"'0\.bias' is \[9\], and its rule '0\.bias' has 2 axes"),
        ({"0.weight": ["a", "a"]}, r"has 9 entries along axis 0 for the 6 units of 'a'"),
        ({"0.weight": ["a", "->b"]}, "cannot write units along two axes"),
    ],
)
def test_rules_that_do_not_fit_are_refused(rules: dict, words: str) -> None:
    with pytest.raises(PoolError, match=words):
        units(Pool({"a": mlp(0)}), rules)


def test_names_that_tell_nothing_are_refused() -> None:
    state = {"query.weight": np.ones((4, 4)), "key.weight": np.ones((4, 4))}
    with pytest.raises(PoolError, match=r"'query\.weight', …\) do not tell .* give rules"):
        units(Pool({"a": state}), None)
    heads = {"heads.0.weight": np.ones((3, 4)), "heads.1.weight": np.ones((3, 4))}
    with pytest.raises(PoolError, match=r"'heads\.1\.weight' reads 4 values, .* writes 3"):
        units(Pool({"a": heads}), "sequence")


def test_the_best_assignment_is_found_where_the_greedy_one_is_not() -> None:
    alike = np.array([[10.0, 9.0], [9.0, 1.0]])  # greedy: 10 + 1
    assert assigned(alike).tolist() == [1, 0]


def test_a_planted_order_is_recovered_exactly() -> None:
    for seed in range(5):
        state = mlp(seed)
        pool = Pool({"a": state, "b": shuffled(state, seed + 50), "c": shuffled(state, seed + 90)})
        found = units(pool, "sequence")
        homes = match_weights(pool, found)
        for model, own in enumerate(pool.models.values()):
            for name, axes in found.axes.items():
                back = aligned(
                    own[name], axes, {group: rows[model] for group, rows in homes.items()}
                )
                assert np.array_equal(back, state[name])
    assert np.allclose(outputs(state, inputs()), outputs(pool.models["b"], inputs()))


def test_a_planted_order_is_recovered_under_noise() -> None:
    state = mlp(1, (6, 30, 20, 4))
    draw = np.random.default_rng(0)
    near = {name: value + 0.2 * draw.normal(size=value.shape) for name, value in state.items()}
    other = shuffled(near, 3)
    pool = Pool({"a": state, "b": other})
    homes = match_weights(pool, units(pool, "sequence"))
    back = np.argsort(homes["0"][1])
    assert np.array_equal(other["0.bias"][back], near["0.bias"])
