"""Units matched by what they do, and layers fitted to it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from permuted import RULES, mlp, outputs, shuffled
from torch import nn

from plait.flows.units import unit_rules
from plait.merging.activations import of_layers, of_units
from plait.merging.base import Have
from plait.merging.matching import correlations, match_weights, zipped
from plait.merging.modules import ModuleBench
from plait.merging.pleas import Pleas
from plait.merging.pool import Pool, PoolError
from plait.merging.units import units
from plait.merging.zipit import Zipit

SEEN = {"rows": 20, "size": 7, "seed": 0}


class Layers(nn.Module):
    """Linear layers named by their numbers, as the states of ``mlp`` are, with ReLU between."""

    def __init__(self, state: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        for number in range(len(state) // 2):
            out, inside = state[f"{number}.weight"].shape
            self.add_module(str(number), nn.utils.skip_init(nn.Linear, inside, out).double())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, i] → [B, o]."""
        last = len(self._modules) - 1
        for number, layer in enumerate(self.children()):
            x = layer(x) if number == last else torch.relu(layer(x))
        return x


def rows_of(task: str, width: int = 6, count: int = 40) -> np.ndarray:
    return np.random.default_rng(ord(task)).normal(size=(count, width))


def bench_of(state: Mapping[str, np.ndarray], names: str = "ab") -> ModuleBench:
    inputs = {task: torch.from_numpy(rows_of(task)) for task in names}
    with torch.random.fork_rng():
        heads = {task: nn.Linear(4, 2).double() for task in names}
    return ModuleBench(Layers(state), heads, inputs)


def hidden(state: Mapping[str, np.ndarray], x: np.ndarray) -> dict[str, np.ndarray]:
    """The units' activations, by group, written out."""
    first = np.maximum(x @ state["0.weight"].T + state["0.bias"], 0)
    return {"0": first, "1": np.maximum(first @ state["1.weight"].T + state["1.bias"], 0)}


def test_activations_are_of_all_models_on_the_rows_of_all_tasks() -> None:
    states = {"a": mlp(0), "b": mlp(1), "c": mlp(2)}
    pool, bench = Pool(states), bench_of(mlp(0), "abc")
    found = of_units(bench, pool, units(pool, RULES), **SEEN)
    chosen = np.concatenate([rows_of(task)[bench.chosen(task, 20, 0)] for task in "abc"])
    for group in ("0", "1"):
        beside = np.concatenate([hidden(state, chosen)[group] for state in states.values()], 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            wanted = np.nan_to_num(np.corrcoef(beside.T))
        assert found[group].count == 60
        np.testing.assert_allclose(found[group].correlations(), wanted, atol=1e-10)


def test_nearness_is_minus_the_distance_of_two_models_units() -> None:
    states = {"a": mlp(0), "b": mlp(1)}
    pool = Pool(states)
    x = np.concatenate([rows_of("a"), rows_of("b")])
    found = of_units(bench_of(mlp(0)), pool, units(pool, RULES), rows=40, size=7, seed=0)
    one, two = (hidden(state, x)["1"] for state in states.values())
    wanted = -np.linalg.norm(one[:, :, None] - two[:, None], axis=0)
    np.testing.assert_allclose(found["1"].nearness(), wanted, rtol=1e-9)


@pytest.mark.parametrize(
    "method",
    [
        Zipit(rules=RULES, by="activations"),
        Pleas(rules=RULES, by="activations"),
        Pleas(rules=RULES, by="activations", fit=True),
        Pleas(rules=RULES, fit=True),
    ],
)
def test_a_planted_order_is_recovered(method: Zipit | Pleas) -> None:
    state = mlp(0)
    merged = method.merge(Pool({"a": state, "b": shuffled(state, 1)}), Have(bench=bench_of(state)))
    x = rows_of("x")
    np.testing.assert_allclose(outputs(merged.tensors, x), outputs(state, x), atol=1e-8)


def test_activations_match_units_whose_weights_do_not_tell() -> None:
    state = mlp(0)
    twin = shuffled(state, 1)
    draw = np.random.default_rng(3)
    for number in range(2):  # the function stays: ReLU lets positive factors through
        factors = np.exp(3 * draw.normal(size=len(twin[f"{number}.bias"])))
        twin[f"{number}.weight"] = twin[f"{number}.weight"] * factors[:, None]
        twin[f"{number}.bias"] = twin[f"{number}.bias"] * factors
        twin[f"{number + 1}.weight"] = twin[f"{number + 1}.weight"] / factors
    pool = Pool({"a": state, "b": twin})
    found = units(pool, RULES)
    order = match_weights(pool, found)
    acts = [hidden(own, rows_of("x")) for own in (state, twin)]

    def right(group: str, homes: np.ndarray) -> int:
        """How many units of the first model share a place with the one that does what they do."""
        partner = np.argsort(homes[1])[homes[0]]
        one, two = acts[0][group], acts[1][group][:, partner]
        one, two = (each / (np.linalg.norm(each, axis=0) + 1e-30) for each in (one, two))
        return int(np.isclose(one, two).all(0).sum())

    activity = of_units(bench_of(state), pool, found, **SEEN)
    for group, size in found.sizes.items():
        heard = zipped(activity[group].correlations(), 2, again=0.3, within=0.0)
        assert right(group, heard) == size
        weights = zipped(correlations(pool, found, group, order), 2, again=0.3, within=0.0)
        assert right(group, np.take_along_axis(weights, order[group], 1)) < size


def wide_layer(one, two, x, plan, kept):
    """The second layer's inputs, and its outputs by the authors' least squares, written out."""
    homes_in, homes_out = plan["0"], plan["1"]
    d_in, d_out = homes_in.shape[1], homes_out.shape[1]
    acts = [hidden(state, x)["0"] for state in (one, two)]
    outs = [
        a @ s["1.weight"].T + s["1.bias"] for a, s in zip(acts, (one, two), strict=True)
    ]  # before ReLU

    def joined(values, homes, size):
        found = np.zeros((len(x), size + kept[size]))
        count = np.zeros(size + kept[size])
        for own, places in zip(values, homes, strict=True):
            for unit, place in enumerate(places):
                found[:, place] += own[:, unit]
                count[place] += 1
        return found / count

    z = np.column_stack([joined(acts, homes_in, d_in), np.ones(len(x))])
    target = joined(outs, homes_out, d_out)
    weight = np.zeros((target.shape[1], z.shape[1]))
    for place in range(target.shape[1]):
        own = [m for m in (0, 1) if place in homes_out[m]]
        reads = [j for j in range(z.shape[1] - 1) if any(j in homes_in[m] for m in own)]
        reads.append(z.shape[1] - 1)
        weight[place, reads] = np.linalg.lstsq(z[:, reads], target[:, place], rcond=None)[0]
    return z, z @ weight.T


@pytest.mark.parametrize("separate", [0.0, 0.25, 0.6])
def test_pleas_solves_the_masked_least_squares_on_the_originals_inputs(separate: float) -> None:
    one, two = mlp(0), mlp(1)
    pool, bench = Pool({"a": one, "b": two}), bench_of(one)
    settings = {"separate": separate, "rules": RULES, "by": "activations", "rows": 40}
    plan = Pleas(**settings)._plan(pool, Have(bench=bench), units(pool, RULES))
    merged = Pleas(**settings, fit=True).merge(pool, Have(bench=bench)).tensors
    x = np.concatenate([rows_of("a"), rows_of("b")])
    z, wanted = wide_layer(one, two, x, plan, {9: round(9 * separate), 8: round(8 * separate)})
    found = z[:, :-1] @ merged["1.weight"].T + merged["1.bias"]
    np.testing.assert_allclose(found, wanted, atol=1e-8)
    for m, other in ((0, 1), (1, 0)):  # what one model keeps reads nothing that the other keeps
        own, theirs = (
            np.setdiff1d(plan[g][k], plan[g][1 - k]) for g, k in (("1", m), ("0", other))
        )
        assert not merged["1.weight"][np.ix_(own, theirs)].any()


def convolutional() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2), nn.Tanh(),
            nn.Flatten(), nn.Linear(20, 3),
        )  # fmt: skip
    return net.double()


def test_channels_of_convolutions_are_matched_and_fitted() -> None:
    net = convolutional()
    state = {name: tensor.detach().numpy().copy() for name, tensor in net.state_dict().items()}
    draw, twin = np.random.default_rng(0), dict(state)
    for here, there, span, count in (("0", "2", 1, 4), ("2", "5", 4, 5)):
        order = draw.permutation(count)
        for name in (f"{here}.weight", f"{here}.bias"):
            twin[name] = twin[name][order]
        reads = (order[:, None] * span + np.arange(span)).reshape(-1)
        twin[f"{there}.weight"] = twin[f"{there}.weight"][:, reads]
    inputs = {task: torch.from_numpy(draw.normal(size=(9, 2, 6, 6))) for task in "ab"}
    with torch.random.fork_rng():
        heads = {task: nn.Linear(3, 2).double() for task in "ab"}
    rules = unit_rules(net)
    for method in (
        Zipit(rules=rules, by="activations"),
        Pleas(rules=rules, by="activations", fit=True),
        Pleas(rules=rules, by="activations", fit=True, separate=0.5),
    ):
        bench = ModuleBench(convolutional(), heads, inputs)
        merged = method.merge(Pool({"a": state, "b": twin}), Have(bench=bench))
        if isinstance(method, Pleas) and method.separate:
            assert merged.tensors["2.weight"].shape == (7, 6, 3, 3)
            continue
        for name, value in merged.tensors.items():
            np.testing.assert_allclose(value, state[name], atol=1e-7)


def test_products_of_layers_hold_what_each_output_is_formed_of() -> None:
    net = convolutional()
    state = {name: tensor.detach().numpy().copy() for name, tensor in net.state_dict().items()}
    inputs = {"a": torch.from_numpy(np.random.default_rng(0).normal(size=(5, 2, 6, 6)))}
    with torch.random.fork_rng():
        bench = ModuleBench(net, {"a": nn.Linear(3, 2).double()}, inputs)
    found = of_layers(bench, Pool({"a": state}), **SEEN)
    patches = nn.functional.unfold(inputs["a"], 3, padding=1).transpose(1, 2).reshape(-1, 18)
    np.testing.assert_allclose(found["0.weight"].products, (patches.T @ patches).numpy())
    assert found["0.weight"].count == 5 * 36
    assert found["2.weight"].count == 5 * 4


def test_what_cannot_be_heard_is_told_before_anything_runs() -> None:
    state = {**mlp(0), "gate": np.ones(5)}
    pool, bench = Pool({"a": state, "b": state}), bench_of(mlp(0))
    bench.module.gate = nn.Parameter(torch.ones(5, dtype=torch.float64))
    method = Zipit(rules={**RULES, "gate": ["gates"]}, by="activations")
    with pytest.raises(PoolError, match=r"reads or writes the units of 'gates'.* match by weights"):
        method.merge(pool, Have(bench=bench))
    for method in (Zipit(by="activations"), Pleas(by="activations"), Pleas(fit=True)):
        with pytest.raises(ValueError, match="needs unlabelled inputs"):
            method.merge(Pool({"a": mlp(0), "b": mlp(1)}))
