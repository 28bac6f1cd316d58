"""mergekit run beside plait on the same checkpoints and recipes, in the environment of its own.

``make mergekit`` builds that environment and runs these; elsewhere they are skipped.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plait.recipes.document import parse
from plait.recipes.merge import job_of
from plait.weights import kinds
from plait.weights.checkpoints import open_checkpoint

ROOT = Path(__file__).parents[2]
PEER = Path(os.environ.get("PLAIT_MERGEKIT", ROOT / ".venv-mergekit" / "bin" / "python"))
pytestmark = [
    pytest.mark.mergekit,
    pytest.mark.skipif(not PEER.exists(), reason="make mergekit builds its environment"),
]
LLAMA: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
MODELS = """
import sys, torch, transformers
place, kind, settings = sys.argv[1], getattr(torch, sys.argv[2]), eval(sys.argv[3])
transformers.logging.set_verbosity_error()
make = lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).to(kind)
torch.manual_seed(0)
base = make()
for number, name in enumerate(("base", "a", "b", "c")):
    model = make()
    model.load_state_dict({k: v + 0.02 * bool(number) * torch.randn_like(v)
                           for k, v in base.state_dict().items()})
    model.save_pretrained(f"{place}/{name}", max_shard_size="20KB")
"""
RUN = """
import os, sys, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
os.chdir(sys.argv[1])
for recipe in sys.argv[2:]:
    told = MergeConfiguration.model_validate(yaml.safe_load(open(recipe)))
    run_merge(told, recipe + ".out", MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True))
"""  # noqa: E501
MIXED = "[{filter: mlp, value: [0.2, 0.8]}, {value: 0.6}]"
BASED = "base_model: base\nmodels:\n"
RECIPES = {
    "mean": "merge_method: linear\nmodels:\n"
    "  - {model: a, parameters: {weight: 1}}\n"
    "  - {model: b, parameters: {weight: 0.5}}\n"
    "  - {model: c, parameters: {weight: 2}}\n",
    "linear": "merge_method: linear\nmodels:\n"
    "  - {model: a, parameters: {weight: 0.7}}\n"
    "  - {model: b, parameters: {weight: 0.45}}\n",
    "task_arithmetic": f"merge_method: task_arithmetic\n{BASED}"
    "  - {model: a, parameters: {weight: 0.7}}\n"
    f"  - {{model: b, parameters: {{weight: {MIXED}}}}}\n"
    "parameters: {lambda: 0.9}\n",
    "ties": f"merge_method: ties\n{BASED}"
    "  - {model: a, parameters: {weight: 0.7, density: 0.4}}\n"
    f"  - {{model: b, parameters: {{weight: 0.3, density: {MIXED}}}}}\n"
    "  - {model: c, parameters: {weight: 1.0, density: 0.21}}\n",
    "breadcrumbs": f"merge_method: breadcrumbs\n{BASED}"
    "  - {model: a, parameters: {weight: 0.7, density: 0.4, gamma: 0.1}}\n"
    "  - {model: b, parameters: {weight: 0.5, density: 0.97}}\n",
    "breadcrumbs_ties": f"merge_method: breadcrumbs_ties\n{BASED}"
    "  - {model: a, parameters: {weight: 0.7, density: 0.4, gamma: 0.1}}\n"
    "  - {model: b, parameters: {weight: 0.5, density: 0.6, gamma: 0.05}}\n",
}  # fmt: skip


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of models and recipes, with what mergekit has made of each."""
    folder = tmp_path_factory.mktemp(request.param)
    words = [str(folder), request.param, repr(LLAMA)]
    subprocess.run([sys.executable, "-c", MODELS, *words], check=True, capture_output=True)
    for name, text in RECIPES.items():
        if request.param == "bfloat16":
            text += "dtype: float32\nout_dtype: bfloat16\n"
            # Of equal magnitudes, which bfloat16 has many of, mergekit keeps any.
            text = re.sub(r", density: (\[.*\]|[\d.]+)(, gamma: [\d.]+)?}", "}", text)
        (folder / name).write_text(text, "utf-8")
    done = subprocess.run(
        [str(PEER), "-c", RUN, str(folder), *RECIPES], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def values(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor as stored, bfloat16 as the bits."""
    opened = open_checkpoint(folder)
    return {name: opened.stored(name, 0, site.size) for name, site in opened.sites.items()}


def shown(stored: np.ndarray) -> np.ndarray:
    """Values as float32."""
    return kinds.shown(stored, "BF16" if stored.dtype == np.uint16 else "F32")


def ulps(one: np.ndarray, other: np.ndarray) -> int:
    """How many representable numbers lie between the values of two tensors, at most."""
    whole = np.int32 if one.dtype.itemsize == 4 else np.int16
    a, b = (
        np.where(v < 0, np.iinfo(whole).min - v, v) for v in (one.view(whole), other.view(whole))
    )
    return int(np.abs(a.astype(np.int64) - b.astype(np.int64)).max())


def merged(text: str, out: Path) -> dict[str, np.ndarray]:
    """What plait makes of a recipe."""
    job_of(parse(text), out.parent).run(out)
    return values(out)


def test_linear_is_mergekits_bit_for_bit(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Weights that are powers of two: mergekit fuses products and sums, which then are the same."""
    monkeypatch.chdir(place)
    mine = merged((place / "mean").read_text("utf-8"), tmp_path / "out")
    theirs = values(place / "mean.out")
    assert mine.keys() == theirs.keys()
    assert all(np.array_equal(mine[name], value) for name, value in theirs.items())


def test_linear_is_mergekits_to_the_rounding_of_its_products(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(place)
    mine = merged((place / "linear").read_text("utf-8"), tmp_path / "out")
    theirs, parts = values(place / "linear.out"), [values(place / name) for name in "ab"]
    for name, value in mine.items():
        largest = np.max([np.abs(shown(part[name])) for part in parts], axis=0)
        step = 2 * np.spacing(largest) * (1 if value.dtype == np.float32 else 2**16)
        assert (np.abs(shown(value) - shown(theirs[name])) <= step).all(), name


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties"])
def test_task_vectors_are_mergekits_to_one_ulp(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str
) -> None:
    monkeypatch.chdir(place)
    mine = merged((place / method).read_text("utf-8"), tmp_path / "out")
    theirs = values(place / f"{method}.out")
    assert mine.keys() == theirs.keys()
    assert max(ulps(value, theirs[name]) for name, value in mine.items()) <= 1
