"""mergekit's YAML, against a slow transcription of what mergekit computes for a tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from plait.recipes.document import RecipeError, parse
from plait.recipes.merge import job_of, read_merge
from plait.weights.states import read_state, write_state

NAMES = ("embed", *(f"layers.{n}.{part}" for n in range(3) for part in ("attn", "mlp")), "norm")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    draw = np.random.default_rng(0)
    base = {name: draw.normal(size=(9, 7)).astype(np.float32) for name in NAMES}
    for model in ("base", "math", "code"):
        step = 0.0 if model == "base" else 0.1
        state = {n: (v + step * draw.normal(size=v.shape)).astype(np.float32)
                 for n, v in base.items()}  # fmt: skip
        (tmp_path / model).mkdir()
        write_state(tmp_path / model / "model.safetensors", state)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def merged(place: Path, text: str) -> dict[str, np.ndarray]:
    (place / "recipe.yaml").write_text(text, "utf-8")
    read_merge(place / "recipe.yaml").run(place / "out")
    return read_state(place / "out" / "model.safetensors")


def states(place: Path) -> list[dict[str, torch.Tensor]]:
    return [
        {n: torch.from_numpy(v) for n, v in read_state(place / m / "model.safetensors").items()}
        for m in ("base", "math", "code")
    ]


def peer(
    base: torch.Tensor, models: list[torch.Tensor], weights: list[float],
    densities: tuple[float, ...] = (1.0, 1.0), *,
    ties: bool, normalize: bool, factor: float = 1.0,
) -> torch.Tensor:  # fmt: skip
    """Task arithmetic or TIES as the peer's code has them, for one tensor."""
    deltas = torch.stack([model - base for model in models])
    for delta, density in zip(deltas, densities, strict=True):
        if density < 1:
            mask = torch.zeros_like(delta)
            top = torch.argsort(delta.abs().flatten(), descending=True)
            mask.flatten()[top[: int(density * delta.numel())]] = 1
            delta *= mask
    w = torch.tensor(weights).reshape(-1, 1, 1)
    weighted = deltas * w
    mask = torch.ones_like(weighted)
    if ties:
        majority = (weighted.sum(0) >= 0).float() * 2 - 1
        mask = (weighted.sign() == majority).float()
    mixed = (weighted * mask).sum(0)
    divisor = (w * mask).sum(0)
    divisor[divisor == 0] = 1
    if normalize:
        mixed = mixed / divisor
    return base + mixed * factor


HEAD = "base_model: base\nmodels:\n"
PIECES = (
    "merge_method: passthrough\nslices:\n- sources: [{model: a, layer_range: [0, 8]}]\n"
    "- sources: [{model: b, layer_range: [4, 12]}]"
)
MIDDLE = (
    "merge_method: slerp\nbase_model: a\nslices:\n"
    "- sources: [{model: a, layer_range: [2, 8]}, {model: b, layer_range: [2, 8]}]"
)
LINEAR = "merge_method: linear\nmodels: [{model: b, parameters: {weight: 1}}]"


def near(found: np.ndarray, wanted: torch.Tensor) -> None:
    np.testing.assert_allclose(found, wanted.numpy(), rtol=3e-7, atol=3e-8)


def test_ties_is_mergekits_with_gradients_and_filters(place: Path) -> None:
    found = merged(place, f"""merge_method: ties
{HEAD}  - {{model: base}}
  - model: math
    parameters:
      weight: [0.2, 0.8]
      density: [{{filter: mlp, value: 0.3}}, {{filter: attn, value: [0.1, 0.9]}}]
  - {{model: code, parameters: {{weight: 1.5}}}}
parameters: {{density: 0.6, lambda: [{{filter: attn, value: 0.5}}], int8_mask: true}}
""")  # fmt: skip
    base, math, code = states(place)
    for name in NAMES:
        depth = int(name.split(".")[1]) / 2 if "." in name else 0.0
        own = 0.3 if "mlp" in name else 0.1 + 0.8 * depth if "attn" in name else 0.6
        wanted = peer(
            base[name], [math[name], code[name]], [0.2 + 0.6 * depth, 1.5], (own, 0.6),
            ties=True, normalize=True, factor=0.5 if "attn" in name else 1.0,
        )  # fmt: skip
        near(found[name], wanted)


@pytest.mark.parametrize("normalize", [None, True])
def test_task_arithmetic_is_mergekits(place: Path, normalize: bool | None) -> None:
    told = "" if normalize is None else ", normalize: true"
    found = merged(place, f"""merge_method: task_arithmetic
{HEAD}  - {{model: math, parameters: {{weight: 0.7}}}}
  - {{model: code, parameters: {{weight: -0.2}}}}
parameters: {{lambda: 1.3{told}}}
""")  # fmt: skip
    base, math, code = states(place)
    for name in NAMES:
        near(found[name], peer(base[name], [math[name], code[name]], [0.7, -0.2], ties=False,
                               normalize=bool(normalize), factor=1.3))  # fmt: skip


@pytest.mark.parametrize("normalize", ["true", "false"])
def test_linear_is_mergekits_bit_for_bit(place: Path, normalize: str) -> None:
    found = merged(place, f"""merge_method: linear
models:
  - {{model: math, parameters: {{weight: 0.3}}}}
  - {{model: code, parameters: {{weight: 0.45}}}}
parameters: {{normalize: {normalize}}}
""")  # fmt: skip
    _, math, code = states(place)
    weights = torch.tensor([0.3, 0.45]).reshape(2, 1, 1)
    for name in NAMES:
        wanted = (weights * torch.stack([math[name], code[name]])).sum(0)
        wanted = wanted / weights.sum(0) if normalize == "true" else wanted
        assert np.array_equal(found[name], wanted.numpy())


@pytest.mark.parametrize("method", ["dare_ties", "dare_linear"])
def test_dare_keeps_the_sum_of_magnitudes_and_the_mean(place: Path, method: str) -> None:
    found = merged(place, f"""merge_method: {method}
{HEAD}  - {{model: math, parameters: {{weight: 1.0, density: 0.4}}}}
""")  # fmt: skip
    base, math, _ = (({n: v.numpy() for n, v in one.items()}) for one in states(place))
    dropped = 0
    for name in NAMES:
        delta, wanted = found[name] - base[name], math[name] - base[name]
        assert np.abs(delta).sum() == pytest.approx(np.abs(wanted).sum(), rel=1e-4)
        kept = np.abs(delta) > 1e-6
        ratio = delta[kept] / wanted[kept]
        assert ratio == pytest.approx(ratio[0], rel=1e-2)
        dropped += (~kept).sum()
    assert dropped / (len(NAMES) * 63) == pytest.approx(0.6, abs=0.08)


def crumbs(delta: torch.Tensor, density: float, gamma: float, *, rescale: bool) -> torch.Tensor:
    """Of N values sorted by size, those from place N − ⌊dN⌋ − ⌊γN⌋ on, ⌊dN⌋ of them."""
    count = delta.numel()
    kept, above = int(density * count), int(gamma * count)
    order = sorted(range(count), key=lambda i: abs(delta.flatten()[i]))
    start = max(count - kept - above, 0)
    mask = torch.zeros(count)
    mask[order[start : start + kept]] = 1
    left = delta * mask.reshape(delta.shape)
    return left * (delta.abs().sum() / left.abs().sum()) if rescale else left


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize(("method", "ties"), [("breadcrumbs", False), ("breadcrumbs_ties", True)])
def test_breadcrumbs_is_mergekits(place: Path, method: str, ties: bool, rescale: bool) -> None:
    """Also where fewer lie below the outliers than are to be kept (density 0.95)."""
    found = merged(place, f"""merge_method: {method}
{HEAD}  - {{model: math, parameters: {{weight: 0.7, density: 0.4, gamma: 0.2}}}}
  - model: code
    parameters: {{weight: 0.5, density: 0.95, gamma: [{{filter: mlp, value: 0.3}}]}}
parameters: {{lambda: 1.2, rescale: {str(rescale).lower()}}}
""")  # fmt: skip
    base, math, code = states(place)
    for name in NAMES:
        thin = [
            base[name] + crumbs(model[name] - base[name], density, gamma, rescale=rescale)
            for model, density, gamma in (
                (math, 0.4, 0.2), (code, 0.95, 0.3 if "mlp" in name else 0.01)
            )
        ]  # fmt: skip
        wanted = peer(base[name], thin, [0.7, 0.5], ties=ties, normalize=False, factor=1.2)
        np.testing.assert_allclose(found[name], wanted.numpy(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("method", ["della", "della_linear"])
def test_della_keeps_larger_entries_more_often_and_the_sum_of_magnitudes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.chdir(tmp_path)
    rows, width = 4000, 6
    delta = np.tile(np.arange(1.0, width + 1, dtype=np.float32), (rows, 1))
    for model, values in (("base", np.zeros_like(delta)), ("math", delta)):
        (tmp_path / model).mkdir()
        write_state(tmp_path / model / "model.safetensors", {"w": values})
    found = merged(tmp_path, f"""merge_method: {method}
{HEAD}  - {{model: math, parameters: {{weight: 1.0, density: 0.5, epsilon: 0.3}}}}
""")["w"]  # fmt: skip
    assert np.abs(found).sum() == pytest.approx(delta.sum(), rel=1e-5)
    kept = found != 0
    factor = found[kept] / delta[kept]
    assert factor == pytest.approx(factor[0], rel=1e-5)
    rates = 0.2 + 0.6 * np.arange(width) / (width - 1)
    np.testing.assert_allclose(kept.mean(0), rates, atol=0.04)


def test_ties_rescales_where_it_is_asked_to(place: Path) -> None:
    found = merged(place, f"""merge_method: ties
{HEAD}  - {{model: math, parameters: {{weight: 1.0, density: 0.3}}}}
parameters: {{rescale: true}}
""")  # fmt: skip
    base, math, _ = states(place)
    for name in NAMES:
        before = float((math[name] - base[name]).abs().sum())
        assert np.abs(found[name] - base[name].numpy()).sum() == pytest.approx(before, rel=1e-4)


def test_what_differs_is_said_and_the_recipe_is_told_in_plaits_words(place: Path) -> None:
    job = job_of(parse(f"""merge_method: ties
dtype: bfloat16
tokenizer_source: base
{HEAD}  - {{model: math, parameters: {{weight: 1, density: 0.5}}}}
"""), place)  # fmt: skip
    assert job.tokenizer == "base"
    assert job.notes[0] == (
        "unlike mergekit: dtype is not followed: tensors keep the type they are stored in"
    )
    assert any("mergekit takes any of them" in note for note in job.notes)
    assert job.spelled()["method"] == {
        "mergekit": {"method": "ties", "weight": {"math": 1}, "density": {"math": 0.5}}
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("merge_method: tie\nbase_model: a\nmodels: [{model: b, parameters: {weight: 1}}]",
         "1:the method 'tie' of mergekit is not read; did you mean 'ties'?"),
        ("merge_method: slerp\nbase_model: a\nmodels: [{model: b}]", "slerp needs t"),
        ("merge_method: slerp\nbase_model: a\nmodels: [{model: b}, {model: c}]",
         "3:slerp goes from base_model to one other model"),
        ("merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\nparameters: {t: much}",
         "4:a number, a list of them, or a list of {filter, value}; got 'much'"),
        (PIECES, "1:plait stack a:0:8 b:4:12 -o OUT"),
        ("merge_method: ties\nslices: []", "2:slices are read where one names whole models"),
        (MIDDLE, "3:slices are read where one names whole models"),
        ("merge_method: ties\nbase_modle: a\nmodels: []", "2:no key 'base_modle'; did you mean"),
        ("merge_method: ties\nmodels: [{model: b}]", "ties needs base_model"),
        ("merge_method: ties\nbase_model: a\nmodels: [{model: b}]", "3:b: no weight, and mergekit"),
        ("merge_method: ties\nbase_model: a\nmodels: [{model: a}]",
         "3:there is no model beside the base"),
        ("merge_method: linear\nmodels:\n- {model: b, parameters: {wieght: 1}}",
         "3:no key 'wieght'; did you mean 'weight'?"),
        ("merge_method: linear\nmodels:\n- {model: b, parameters: {weight: {value: 1}}}",
         "3:a number, a list of them, or a list of {filter, value}"),
        ("merge_method: linear\nmodels:\n- {model: b+c, parameters: {weight: 1}}",
         "3:an adapter is named by its own folder"),
        ("merge_method: linear\nbase_model: a\nmodels:\n- {model: b, parameters: {weight: 1}}",
         "2:linear uses a base_model only where it is among the models"),
        (LINEAR + "\ntokenizer_source: union", "3:tokenizer_source is base: vocabularies are"),
        ("merge_method: ties\nbase_model: a\nmodels:\n- {model: b, parameters: {gamma: 0.1}}",
         "4:no key 'gamma'"),
        (LINEAR + "\nparameters: {normalize: 3}", "3:normalize is true or false here; got 3"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_with_its_line(place: Path, text: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        job_of(parse(text, "r.yaml"), place)
    told = str(error.value)
    line, words = said.split(":", 1) if said[0].isdigit() else ("1", said)
    assert words in told
    assert f"r.yaml:{line}:" in told


@pytest.mark.parametrize("sliced", [False, True])
def test_slerp_is_mergekits_with_shares_by_name_and_depth(place: Path, sliced: bool) -> None:
    rows = "".join(f"  - {{model: {name}}}\n" for name in ("math", "code"))
    whole = ", ".join(f"{{model: {name}, layer_range: [0, 3]}}" for name in ("math", "code"))
    models = f"slices:\n  - sources: [{whole}]\n" if sliced else f"models:\n{rows}"
    found = merged(place, f"""merge_method: slerp
base_model: math
{models}parameters:
  t: [{{filter: attn, value: [0, 0.4, 1]}}, {{filter: mlp, value: [1, 0]}}, {{value: 0.5}}]
""")  # fmt: skip
    _, math, code = states(place)
    shares = {"attn": (0.0, 0.4, 1.0), "mlp": (1.0, 0.5, 0.0)}
    for name in NAMES:
        part = name.split(".")
        t = shares[part[2]][int(part[1])] if len(part) > 1 else 0.5
        a, b = math[name].double(), code[name].double()
        angle = torch.arccos((a * b).sum() / a.norm() / b.norm())
        wanted = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
        np.testing.assert_allclose(found[name], wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_a_filter_that_misses_a_tensor_is_named(place: Path) -> None:
    with pytest.raises(ValueError, match="no filter of weight fits 'embed' of 'math'; end with"):
        merged(place, f"""merge_method: ties
{HEAD}  - {{model: math, parameters: {{weight: [{{filter: mlp, value: 1}}]}}}}
""")  # fmt: skip
