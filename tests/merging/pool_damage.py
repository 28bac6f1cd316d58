"""Three folders that merge, and what can be done to them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from plait.weights.states import write_state

Damage = Callable[[Path], object]
Case = tuple[str, Damage, str, tuple[str, ...]]

AGAIN = "copy the file again"
TIES = "--method ties --base base math code"
MEAN = "--method average math code"
WEIGHTS = "math/model.safetensors"
TOKENS = ["<s>", "</s>", "the", "cat", "sat", "mat"]


def good(place: Path) -> None:
    """A base and two models tuned from it, as folders of transformers."""
    draw = np.random.default_rng(0)
    base = {
        "embed.weight": draw.normal(size=(6, 4)),
        "layers.0.w": draw.normal(size=(4, 4)),
        "layers.1.w": draw.normal(size=(4, 4)),
        "norm.weight": np.ones(4),
    }
    for number, name in enumerate(("base", "math", "code")):
        folder = place / name
        folder.mkdir()
        state = {
            k: (v + 0.05 * number * draw.normal(size=v.shape)).astype("f4") for k, v in base.items()
        }
        write_state(folder / "model.safetensors", state | {"steps": np.asarray(number)})
        (folder / "config.json").write_text('{"model_type": "toy"}', "utf-8")
        tokenizer = {"model": {"vocab": {word: n for n, word in enumerate(TOKENS)}}}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
        settings = {"eos_token": "</s>", "chat_template": "{{ messages }}"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


# -- damage -----------------------------------------------------------------------------------


def header(
    change: Callable[[dict[str, Any]], object], file: str = WEIGHTS, data: bytes | None = None
) -> Damage:
    """Change what the head of a file says; the bytes behind it stay, or become ``data``."""

    def run(place: Path) -> None:
        whole = (place / file).read_bytes()
        length = int.from_bytes(whole[:8], "little")
        told = json.loads(whole[8 : 8 + length])
        text = change(told)
        text = json.dumps(told).encode() if text is None else text
        assert isinstance(text, bytes)
        rest = whole[8 + length :] if data is None else data
        (place / file).write_bytes(len(text).to_bytes(8, "little") + text + rest)

    return run


def says(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], None]:
    """A change of the head whose value is of no interest."""

    def run(told: dict[str, Any]) -> None:
        change(told)

    return run


def raw(change: Callable[[bytes], bytes], file: str = WEIGHTS) -> Damage:
    """Change the bytes of a file."""
    return lambda place: (place / file).write_bytes(change((place / file).read_bytes()))


def put(file: str, data: bytes | str) -> Damage:
    """Write a file."""

    def run(place: Path) -> None:
        (place / file).parent.mkdir(exist_ok=True)
        (place / file).write_bytes(data if isinstance(data, bytes) else data.encode())

    return run


def tensors(change: Callable[[dict[str, np.ndarray]], object], *names: str) -> Damage:
    """Change the tensors of models (``math`` unless said), and write a sound file of them."""

    def run(place: Path) -> None:
        from safetensors.numpy import load_file

        for name in names or ("math",):
            path = place / name / "model.safetensors"
            state = {key: value.copy() for key, value in load_file(path).items()}
            change(state)
            write_state(path, state)

    return run


def edit(file: str, change: Callable[[Any], object]) -> Damage:
    """Change a JSON file."""

    def run(place: Path) -> None:
        told = json.loads((place / file).read_text("utf-8"))
        change(told)
        (place / file).write_text(json.dumps(told), "utf-8")

    return run


def nothing(place: Path) -> None:
    """The models are sound; the command is not."""


def all_of(*damages: Damage) -> Damage:
    return lambda place: [damage(place) for damage in damages]


def sharded(change: Callable[[dict[str, Any]], object] = dict) -> Damage:
    """``math`` in two shards with an index that is then changed."""

    def run(place: Path) -> None:
        from safetensors.numpy import load_file

        folder = place / "math"
        state = load_file(folder / "model.safetensors")
        names = list(state)
        index: dict[str, Any] = {"weight_map": {}}
        for number, part in enumerate((names[:2], names[2:]), 1):
            file = f"model-0000{number}-of-00002.safetensors"
            write_state(folder / file, {name: state[name] for name in part})
            index["weight_map"] |= dict.fromkeys(part, file)
        (folder / "model.safetensors").unlink()
        change(index)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")

    return run


def at(name: str, place: Any, value: Any) -> Callable[[dict[str, np.ndarray]], None]:
    """Set one value of a tensor."""

    def run(state: dict[str, np.ndarray]) -> None:
        state[name][place] = value

    return run


def cast(name: str, kind: str) -> Callable[[dict[str, np.ndarray]], None]:
    def run(state: dict[str, np.ndarray]) -> None:
        state[name] = state[name].astype(kind)

    return run


def shaped(name: str, *shape: int) -> Callable[[dict[str, np.ndarray]], None]:
    def run(state: dict[str, np.ndarray]) -> None:
        state[name] = np.zeros(shape, "f4")

    return run


def renamed(state: dict[str, np.ndarray]) -> None:
    for name in list(state):
        state[f"model.{name}"] = state.pop(name)


def link_out(place: Path) -> None:
    shutil.move(place / WEIGHTS, place / "elsewhere.safetensors")
    (place / WEIGHTS).symlink_to(place / "elsewhere.safetensors")


def tied_to(alias: str, owner: str) -> Damage:
    return header(says(lambda told: told.__setitem__("__metadata__", {alias: owner})))


def lora(
    config: dict[str, Any], change: Callable[[dict[str, np.ndarray]], object] = dict
) -> Damage:
    """``math`` as a LoRA adapter."""

    def run(place: Path) -> None:
        shutil.rmtree(place / "math")
        (place / "math").mkdir()
        whole = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["w"]} | config
        (place / "math" / "adapter_config.json").write_text(
            json.dumps({key: value for key, value in whole.items() if value is not None}), "utf-8"
        )
        start = "base_model.model.layers.0."
        state = {
            f"{start}lora_A.weight": np.ones((2, 4), "f4"),
            f"{start}lora_B.weight": np.ones((4, 2), "f4"),
        }
        change(state)
        write_state(place / "math" / "adapter_model.safetensors", state)

    return run


def first(told: dict[str, Any]) -> dict[str, Any]:
    return told["embed.weight"]


def twice(told: dict[str, Any]) -> bytes:
    row = json.dumps(first(told))
    return f'{{"embed.weight": {row}, "embed.weight": {row}}}'.encode()


def stored(kind: str, size: int) -> Damage:
    """All three models hold one tensor of a type, ``size`` bytes for a value."""

    def run(place: Path) -> None:
        for name in ("base", "math", "code"):
            head = {"w": {"dtype": kind, "shape": [2], "data_offsets": [0, 2 * size]}}
            text = json.dumps(head).encode()
            data = len(text).to_bytes(8, "little") + text + bytes(2 * size)
            (place / name / "model.safetensors").write_bytes(data)

    return run
