from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from permuted import inputs, mlp, outputs, shuffled

from plait.merging.jobs import Job
from plait.merging.pleas import Pleas, partial_homes
from plait.merging.pool import Pool
from plait.weights.checkpoints import open_checkpoint
from plait.weights.states import write_state


def test_a_model_and_its_copy_in_another_order_give_the_model_back() -> None:
    state = mlp(0)
    merged = Pleas(rules="sequence").merge(Pool({"a": state, "b": shuffled(state, 1)}))
    for name, value in merged.tensors.items():
        np.testing.assert_allclose(value, state[name], atol=1e-12)


def test_side_by_side_the_output_is_the_mean_of_both() -> None:
    one, two = mlp(0), mlp(1)
    merged = Pleas(separate=1.0, rules="sequence").merge(Pool({"a": one, "b": two}))
    assert merged.evidence["widths"] == {"0": 18, "1": 16}
    wanted = (outputs(one, inputs()) + outputs(two, inputs())) / 2
    np.testing.assert_allclose(outputs(merged.tensors, inputs()), wanted, atol=1e-12)


def test_the_pairs_least_alike_stay_apart() -> None:
    alike = np.array([[1.0, 9.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.0, 7.0]])
    order = np.array([[0, 1, 2], [1, 0, 2]])  # pairs: 0-1 (9), 1-0 (5), 2-2 (7)
    homes = partial_homes(alike, order, 1 / 3)
    assert homes.tolist() == [[0, 2, 1], [3, 0, 1]]


@pytest.mark.parametrize("separate", [0.25, 0.5])
def test_it_solves_the_least_squares_of_units_that_do_not_correlate(separate: float) -> None:
    """Regress the authors' targets on their inputs, drawn white, and compare a layer's weights."""
    one, two = mlp(0, (4, 8, 8, 2)), mlp(1, (4, 8, 8, 2))
    merged = Pleas(separate=separate, rules="sequence").merge(Pool({"a": one, "b": two}))
    wide = merged.tensors
    kept = round(8 * separate)
    # Where every unit of the two models went, told by the biases, which are copied or averaged.
    homes = {}
    for layer in (0, 1):
        bias = wide[f"{layer}.bias"]
        apart = [[int(np.flatnonzero(np.isclose(bias, b))[0]) if np.isclose(bias, b).any() else -1
                  for b in state[f"{layer}.bias"]] for state in (one, two)]  # fmt: skip
        assert all(sum(place >= 8 - kept for place in row) == kept for row in apart)
        means = (one[f"{layer}.bias"][:, None] + two[f"{layer}.bias"]) / 2
        pairs = {
            place: np.unravel_index(np.isclose(means, bias[place]).argmax(), means.shape)
            for place in range(8 - kept)
        }
        homes[layer] = (apart, pairs)
    draw = np.random.default_rng(5)
    q, _ = np.linalg.qr(draw.normal(size=(40, 16)))
    units = q.T * np.sqrt(40)  # white: columns of both models' units do not correlate at all

    def joined(values: np.ndarray, layer: int) -> np.ndarray:
        apart, pairs = homes[layer]
        found = np.zeros((8 + kept, values.shape[1]))
        for place, (i, j) in pairs.items():
            found[place] = (values[i] + values[8 + j]) / 2
        for model, row in enumerate(apart):
            for unit, place in enumerate(row):
                if place >= 0:
                    found[place] = values[8 * model + unit]
        return found

    outs = np.concatenate([one["1.weight"] @ units[:8], two["1.weight"] @ units[8:]])
    z, target = joined(units, 0), joined(outs, 1)
    wanted = np.linalg.lstsq(z.T, target.T, rcond=None)[0].T
    np.testing.assert_allclose(wide["1.weight"], wanted, atol=1e-10)


def test_wider_tensors_are_written_to_a_folder(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        write_state(tmp_path / f"{name}.safetensors", mlp(seed))
    paths = {name: tmp_path / f"{name}.safetensors" for name in "ab"}
    Job(models=paths, method=Pleas(separate=0.5, rules="sequence")).run(tmp_path / "out")
    shapes = {name: site.shape for name, site in open_checkpoint(tmp_path / "out").sites.items()}
    assert shapes["0.weight"] == (13, 6)  # round(4.5) is 4
    assert shapes["1.weight"] == (12, 13)


def test_a_share_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="separate is a share from 0 to 1, not 2"):
        Pleas(separate=2)
    with pytest.raises(ValueError, match="merges 2 models"):
        Pleas().merge(Pool({"a": mlp(0)}))
