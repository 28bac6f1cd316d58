"""What merging costs: CPU seconds and peak memory for models of two sizes, in float32 and bfloat16.

Writes a base and its models (shapes of a small Llama, values drawn at random, the models a tenth
of the base's spread away) into a temporary folder and merges them, each merge in a process of its
own: once reading, merging and writing alone, and once as the whole command, which also compares
the models, hashes every file and writes the card. CPU seconds are printed, since other work on the
machine lengthens wall-clock time most.

With ``--mergekit PYTHON`` (an interpreter that has it; ``make mergekit``) that merges the same
files by recipes that mean the same, measured from its first call on and as a whole process.

    python benchmarks/merging.py [--models 8] [--size small] [--type F32] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from math import prod
from pathlib import Path

import numpy as np

from plait.weights.folders import Growing
from plait.weights.kinds import narrow

SIZES = {"small": (512, 1376, 12), "large": (1280, 3456, 20)}  # 54 and 437 million parameters
WORDS = 32_000
METHODS = {
    "linear": "average",
    "task arithmetic": "{task_arithmetic: {scale: 0.4}}",
    "TIES, cut over the model": "{ties: {keep: 0.2, scale: 1.0}}",
    "TIES, cut by tensor": "{ties: {keep: 0.2, scale: 1.0, per: tensor}}",
    "DARE-TIES": "{dare: {drop: 0.8, method: {ties: {keep: 1.0, scale: 1.0}}}}",
}
PEERS = {
    "linear": ("linear", "weight: 1.0", ""),
    "task arithmetic": ("task_arithmetic", "weight: 0.4", "base_model: {base}"),
    "TIES, cut by tensor": ("ties", "weight: 1.0, density: 0.2", "base_model: {base}"),
    "DARE-TIES": ("dare_ties", "weight: 1.0, density: 0.2", "base_model: {base}"),
}
# The system's own count of peak memory begins with the program; getrusage's with its parent.
PEAK = """
def peak():
    told = open("/proc/self/status").read()
    return int(told.partition("VmHWM:")[2].split()[0]) / 1024
"""
BARE = """
import json, sys, time
from pathlib import Path
from plait.merging.jobs import Job
from plait.recipes.merge import parse_method
from plait.weights.folders import Folder
base, out, method, *models = sys.argv[1:]
job = Job(models={m: Path(m) for m in models}, base=Path(base), method=parse_method(method))
start = time.process_time()
job.method.merge(job.pool(), sink=Folder(out, "benchmark"))
cpu = time.process_time() - start
print(json.dumps([cpu, peak()]))
"""
WHOLE = """
import json, sys, time
from plait.cli.main import run
base, out, method, *models = sys.argv[1:]
try:
    run(["merge", "--workers", "1", "--method", method, "--base", base, *models, "-o", out])
except SystemExit as left:
    assert not left.code
print(json.dumps([time.process_time(), peak()]))
"""


MERGEKIT = """
import json, sys, time, yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
recipe, out = sys.argv[1:]
start = time.process_time()
told = MergeConfiguration.model_validate(yaml.safe_load(open(recipe)))
run_merge(told, out, MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True))
print(json.dumps([time.process_time() - start, time.process_time(), peak()]))
"""


def shapes(size: str) -> dict[str, tuple[int, ...]]:
    """The tensors of a model by name."""
    width, inner, layers = SIZES[size]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (WORDS, width)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        found |= {f"{at}self_attn.{one}_proj.weight": (width, width) for one in "qkvo"}
        found |= {f"{at}mlp.{one}_proj.weight": (inner, width) for one in ("gate", "up")}
        found |= {f"{at}mlp.down_proj.weight": (width, inner)}
        found |= {f"{at}{one}_layernorm.weight": (width,) for one in ("input", "post_attention")}
    return {**found, "model.norm.weight": (width,)}


def write(folder: Path, size: str, kind: str, number: int) -> None:
    """Model ``number`` of a pool; 0 is the base."""
    folder.mkdir()
    laid = {name: (kind, shape) for name, shape in shapes(size).items()}
    file = Growing(folder / "model.safetensors", laid)
    for place, (name, (_, shape)) in enumerate(laid.items()):
        values = 0.02 * np.random.default_rng(place).standard_normal(prod(shape), np.float32)
        if number:
            own = np.random.default_rng((place, number))
            values += 0.002 * own.standard_normal(prod(shape), np.float32)
        file.write(name, 0, narrow(values, kind))
    file.finish()
    width, inner, layers = SIZES[size]
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 8,
        "vocab_size": WORDS, "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


def recipe(method: str, base: str, models: list[str]) -> str:
    """mergekit's recipe for a method."""
    name, settings, more = PEERS[method]
    rows = [f"  - {{model: {model}, parameters: {{{settings}}}}}" for model in models]
    return "\n".join([f"merge_method: {name}", more.format(base=base), "models:", *rows])


def measured(
    code: str, words: list[str], out: Path, python: str = sys.executable
) -> tuple[float, ...]:
    """CPU seconds and peak megabytes of a merge in a process of its own."""
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "-c", PEAK + code, *words],
        capture_output=True,
        text=True,
        env=alone,
        check=True,
    )  # fmt: skip
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(out.with_name(f".{out.name}.merging"), ignore_errors=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print one row for each method."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--models", type=int, nargs="+", default=[4, 8])
    asked.add_argument("--size", choices=SIZES, default="small")
    asked.add_argument("--type", choices=("F32", "BF16"), default="F32")
    asked.add_argument("--folder", type=Path, help="where there is room; a temporary one else")
    asked.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    asked.add_argument("--mergekit", help="a Python interpreter that has mergekit")
    given = asked.parse_args()
    count = sum(prod(shape) for shape in shapes(given.size).values())
    print(f"{count / 1e6:.0f} million parameters, {given.type}; load {os.getloadavg()[0]:.1f}")
    print("| method | models | merging, CPU s | peak MB | whole command, CPU s | peak MB |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        place = Path(name)
        for number in range(max(given.models) + 1):
            write(place / f"m{number}", given.size, given.type, number)
        for method in given.only:
            for models in given.models:
                pool = [str(place / f"m{number}") for number in range(1, models + 1)]
                words = [str(place / "m0"), str(place / "out"), METHODS[method], *pool]
                bare = measured(BARE, words, place / "out")
                whole = measured(WHOLE, words, place / "out")
                print(f"| {method} | {models} | {bare[0]:.1f} | {bare[1]:.0f} | {whole[0]:.1f} | "
                      f"{whole[1]:.0f} |", flush=True)  # fmt: skip
                if given.mergekit and method in PEERS:
                    (place / "recipe").write_text(recipe(method, words[0], pool), "utf-8")
                    own = [str(place / "recipe"), str(place / "out")]
                    bare, whole, peak = measured(MERGEKIT, own, place / "out", given.mergekit)
                    print(f"| {method}, mergekit | {models} | {bare:.1f} | {peak:.0f} | "
                          f"{whole:.1f} | {peak:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
