"""Bad pools, each with what is told of it.

A case is a name, what is done to the three folders ``base``, ``math`` and ``code``, words of the
command after ``plait merge``, and parts of the message: the file or model, the tensor or key, the
fix.
"""

# A case is easier to read with its message on one line.

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


SHAPES: list[Case] = [
    (
        "another shape",
        tensors(shaped("layers.0.w", 4, 5)),
        TIES,
        ("'layers.0.w' is [4, 5] in 'math' and [4, 4] in the base",),
    ),
    (
        "another number of axes",
        tensors(shaped("norm.weight", 4, 1)),
        TIES,
        ("'norm.weight' is [4, 1] in 'math' and [4] in the base",),
    ),
    (
        "a longer vocabulary",
        tensors(shaped("embed.weight", 8, 4)),
        TIES,
        ("'embed.weight' is [8, 4] in 'math' and [6, 4] in the base",),
    ),
    (
        "shapes of every model at once",
        all_of(tensors(shaped("norm.weight", 3)), tensors(shaped("embed.weight", 5, 4), "code")),
        TIES,
        ("is [3] in 'math'", "is [5, 4] in 'code'"),
    ),
    (
        "a missing tensor",
        tensors(lambda s: s.pop("norm.weight")),
        TIES,
        ("'math' lacks 'norm.weight' of the base",),
    ),
    (
        "an extra tensor",
        tensors(lambda s: s.update(head=np.ones(2, "f4"))),
        TIES,
        ("'math' has 'head' that the base lacks",),
    ),
    (
        "names with a prefix",
        tensors(renamed),
        TIES,
        (
            "'math' lacks 'steps', 'embed.weight'",
            "'math' has 'model.steps', 'model.embed.weight'",
            "that the base lacks",
        ),
    ),
    (
        "many extra tensors",
        tensors(lambda s: s.update({f"x{i}": np.ones(1, "f4") for i in range(9)})),
        TIES,
        ("'x0', 'x1', 'x2', 'x3', 'x4' and 4 more",),
    ),
    (
        "no base, and models that differ",
        tensors(lambda s: s.pop("steps")),
        MEAN,
        ("'code' has 'steps' that 'math' lacks",),
    ),
    (
        "half in one, single in another",
        tensors(cast("layers.1.w", "f2")),
        TIES,
        ("'layers.1.w' is float16 in 'math' and float32 in the base",),
    ),
    (
        "a counter that is a float",
        tensors(cast("steps", "f4")),
        TIES,
        ("'steps' is float32 in 'math' and int64 in the base",),
    ),
    (
        "a counter of another width",
        tensors(cast("steps", "i4")),
        TIES,
        ("'steps' is int32 in 'math' and int64 in the base",),
    ),
    (
        "float8",
        stored("F8_E4M3", 1),
        TIES,
        ("'w' of the base is float8 (e4m3), which is not merged; convert it first",),
    ),
    (
        "complex numbers",
        stored("C64", 8),
        TIES,
        ("'w' of the base is complex64, which is not merged",),
    ),
    (
        "a type that nobody knows",
        stored("F4", 1),
        TIES,
        ("'w' has the type 'F4', which plait does not read",),
    ),
    (
        "a tensor tied to itself",
        tied_to("norm.weight", "norm.weight"),
        TIES,
        ("'norm.weight' is stored, and said to be tied to 'norm.weight'", AGAIN),
    ),
    (
        "a stored tensor said to be another",
        tied_to("embed.weight", "norm.weight"),
        TIES,
        ("'embed.weight' is stored, and said to be tied to 'norm.weight'", AGAIN),
    ),
    (
        "tied in one model only",
        tied_to("head.weight", "embed.weight"),
        TIES,
        ("'math' has 'head.weight' that the base lacks",),
    ),
]
WORDS: list[Case] = [
    (
        "words added",
        edit("math/tokenizer.json", lambda t: t["model"]["vocab"].update(dog=6)),
        TIES,
        (
            "'math' has another tokenizer than base: it adds 'dog'",
            "tokenizer: base takes the base's",
        ),
    ),
    (
        "words in another order",
        edit("math/tokenizer.json", lambda t: t["model"]["vocab"].update(cat=2, the=3)),
        TIES,
        ("it numbers otherwise 'the', 'cat'",),
    ),
    (
        "words missing",
        edit("math/tokenizer.json", lambda t: t["model"]["vocab"].pop("mat")),
        TIES,
        ("it lacks 'mat'",),
    ),
    (
        "special words added",
        edit(
            "math/tokenizer.json", lambda t: t.update(added_tokens=[{"content": "<tool>", "id": 6}])
        ),
        TIES,
        ("it adds '<tool>'",),
    ),
    (
        "another end of text",
        edit("math/tokenizer_config.json", lambda t: t.update(eos_token="<end>")),
        TIES,
        ("its eos_token is '<end>', not '</s>'",),
    ),
    (
        "no word for padding in one",
        edit("math/tokenizer_config.json", lambda t: t.update(pad_token="<pad>")),
        TIES,
        ("its pad_token is '<pad>', not None",),
    ),
    (
        "another chat template",
        edit("math/tokenizer_config.json", lambda t: t.update(chat_template="{{ x }}")),
        TIES,
        ("its chat_template is '{{ x }}', not '{{ messages }}'",),
    ),
    (
        "chat templates of files",
        all_of(
            put("base/chat_template.jinja", "{{ a }}"), put("math/chat_template.jinja", "{{ b }}")
        ),
        TIES,
        ("its chat_template.jinja is '{{ b }}', not '{{ a }}'",),
    ),
    (
        "a tokenizer that is no JSON",
        put("math/tokenizer.json", "{"),
        TIES,
        ("math/tokenizer.json: not readable as JSON",),
    ),
    (
        "a tokenizer nested too deep",
        put("math/tokenizer.json", "[" * 200_000),
        TIES,
        ("math/tokenizer.json: not readable as JSON",),
    ),
    (
        "added words without a number",
        edit("math/tokenizer.json", lambda t: t.update(added_tokens=[{"content": "<x>"}])),
        TIES,
        ("math/tokenizer.json: its words are not listed as tokenizers lists them",),
    ),
    (
        "a vocabulary of numbers",
        edit("math/tokenizer.json", lambda t: t["model"].update(vocab=[1, 2])),
        TIES,
        ("math/tokenizer.json: its words are not listed as tokenizers lists them",),
    ),
    (
        "settings that are a list",
        put("math/tokenizer_config.json", "[1]"),
        TIES,
        ("math/tokenizer_config.json: not a tokenizer's settings",),
    ),
    (
        "a linked configuration",
        lambda p: (
            (p / "base/config.json").unlink(),
            (p / "base/config.json").symlink_to("/etc/hostname"),
        ),
        TIES,
        ("base/config.json is a link out of its folder",),
    ),
]
VALUES: list[Case] = [
    (
        "NaN in a model",
        tensors(at("layers.0.w", (1, 2), np.nan)),
        TIES,
        ("'layers.0.w' of 'math' has NaN or infinite values", "leave that model out"),
    ),
    (
        "infinite in the base",
        tensors(at("embed.weight", (0, 0), np.inf), "base"),
        TIES,
        ("'embed.weight' of the base has NaN or infinite values",),
    ),
    (
        "minus infinite in the last",
        tensors(at("norm.weight", 3, -np.inf), "code"),
        MEAN,
        ("'norm.weight' of 'code' has NaN or infinite values",),
    ),
    (
        "a merge too large for its type",
        tensors(
            lambda s: [
                cast(n, "f2")(s)
                for n in ("embed.weight", "layers.0.w", "layers.1.w", "norm.weight")
            ],
            "base",
            "math",
            "code",
        ),
        "--method '{task_arithmetic: {scale: 100000000}}' --base base math code",
        ("the merge gives NaN or infinite values in", "float16", "scale it less"),
    ),
    (
        "a variance below zero",
        all_of(
            *(
                tensors(
                    lambda s, n=n: s.update({"bn.running_var": np.full(2, 1.0 - n, "f4")}), name
                )
                for n, name in enumerate(("base", "math", "code"))
            )
        ),
        "--method '{task_arithmetic: {scale: 1}}' --base base math code",
        ("negative values in 'bn.running_var', which is a variance",),
    ),
]
FILES: list[Case] = [
    (
        "a cut file",
        raw(lambda b: b[:-40]),
        TIES,
        ("math/model.safetensors: damaged, cut short", AGAIN),
    ),
    (
        "an empty file",
        raw(lambda _: b""),
        TIES,
        ("math/model.safetensors: not a whole safetensors file (0 bytes",),
    ),
    (
        "four bytes",
        raw(lambda _: b"\x01\x00\x00\x00"),
        TIES,
        ("not a whole safetensors file (4 bytes",),
    ),
    (
        "a header longer than its file",
        raw(lambda b: (10**6).to_bytes(8, "little") + b[8:]),
        TIES,
        ("its header claims 1000000",),
    ),
    (
        "a header of 2⁶³ bytes",
        raw(lambda b: b"\xff" * 7 + b"\x7f" + b[8:]),
        TIES,
        ("its header claims 9223372036854775807",),
    ),
    (
        "bytes behind the last tensor",
        raw(lambda b: b + b"more"),
        TIES,
        ("4 bytes follow the last tensor", AGAIN),
    ),
    (
        "a header that is no JSON",
        header(lambda _: b"{'a'}"),
        TIES,
        ("its header is not readable", AGAIN),
    ),
    (
        "a header of other letters",
        header(lambda _: b'{"\xff\xfe": 1}'),
        TIES,
        ("its header is not readable",),
    ),
    (
        "a header nested too deep",
        header(lambda _: b"[" * 200_000),
        TIES,
        ("its header is not readable",),
    ),
    (
        "a header that is a list",
        header(lambda _: b"[1]"),
        TIES,
        ("its header is no list of tensors",),
    ),
    ("a name given twice", header(twice), TIES, ("its header names 'embed.weight' twice", AGAIN)),
    (
        "a name of 20,000 letters",
        header(says(lambda t: t.update({"x" * 20_000: first(t)}))),
        TIES,
        ("has a name of 20000 letters",),
    ),
    (
        "tensors that overlap",
        header(says(lambda t: t["norm.weight"].update(data_offsets=[8, 24]))),
        TIES,
        ("overlaps", AGAIN),
    ),
    (
        "bytes that are nobody's",
        header(says(lambda t: t.pop("embed.weight"))),
        TIES,
        ("96 bytes before 'layers.0.w' are nobody's",),
    ),
    (
        "an end before its beginning",
        header(says(lambda t: first(t).update(data_offsets=[96, 0]))),
        TIES,
        ("'embed.weight' has the shape [6, 4] at 96 to 0",),
    ),
    (
        "a place below zero",
        header(says(lambda t: first(t).update(data_offsets=[-96, 0]))),
        TIES,
        ("'embed.weight' has the shape [6, 4] at -96 to 0",),
    ),
    (
        "places that are text",
        header(says(lambda t: first(t).update(data_offsets=["0", "96"]))),
        TIES,
        ("its header does not say what 'embed.weight' is",),
    ),
    (
        "a side below zero",
        header(says(lambda t: first(t).update(shape=[-6, -4]))),
        TIES,
        ("'embed.weight' has the shape [-6, -4]",),
    ),
    (
        "a side that is a fraction",
        header(says(lambda t: first(t).update(shape=[6.0, 4]))),
        TIES,
        ("'embed.weight' has the shape [6.0, 4]",),
    ),
    (
        "a side that is half a letter",
        header(lambda t: json.dumps(t).replace("[6, 4]", '["\\ud800", 4]').encode()),
        TIES,
        ("'embed.weight' has the shape ['\\ud800', 4]",),
    ),
    (
        "a side that is true",
        header(says(lambda t: first(t).update(shape=[True, 24]))),
        TIES,
        ("'embed.weight' has the shape [True, 24]",),
    ),
    (
        "a shape of 2¹²⁸ values",
        header(says(lambda t: first(t).update(shape=[2**64, 2**64]))),
        TIES,
        ("'embed.weight' has the shape [18446744073709551616, 18446744073709551616]",),
    ),
    (
        "a tensor without a type",
        header(says(lambda t: first(t).pop("dtype"))),
        TIES,
        ("its header does not say what 'embed.weight' is",),
    ),
    (
        "metadata that are no text",
        header(says(lambda t: t.update(__metadata__={"a": 1}))),
        TIES,
        ("its metadata are not text",),
    ),
    (
        "metadata that are a list",
        header(says(lambda t: t.update(__metadata__=["a"]))),
        TIES,
        ("its metadata are not text",),
    ),
    (
        "a pickle by another name",
        raw(lambda _: b"\x80\x02}q\x00." + bytes(20) + b"x"),
        TIES,
        ("math/model.safetensors is a pickle", "plait convert"),
    ),
    (
        "a zip by another name",
        raw(lambda _: b"PK\x03\x04" + bytes(60)),
        TIES,
        ("math/model.safetensors is a pickle", "plait convert"),
    ),
    (
        "a folder with a pickle",
        lambda p: (p / WEIGHTS).rename(p / "math/pytorch_model.bin"),
        TIES,
        ("its weights are a pickle (pytorch_model.bin)", "plait convert"),
    ),
    (
        "a folder with nothing",
        lambda p: (p / WEIGHTS).unlink(),
        TIES,
        ("math: no weights in it (model.safetensors or",),
    ),
    (
        "two files and no index",
        lambda p: (
            shutil.copy(p / WEIGHTS, p / "math/a.safetensors"),
            (p / WEIGHTS).rename(p / "math/b.safetensors"),
        ),
        TIES,
        ("several safetensors files (a.safetensors, b.safetensors) and no",),
    ),
    (
        "a link out of the folder",
        link_out,
        TIES,
        ("math/model.safetensors is a link out of its folder",),
    ),
    (
        "a model that is not there",
        lambda p: shutil.rmtree(p / "math"),
        TIES,
        ("math: math: there is no such file or folder",),
    ),
    (
        "a folder in place of a file",
        lambda p: ((p / WEIGHTS).unlink(), (p / WEIGHTS).mkdir()),
        TIES,
        ("math/model.safetensors",),
    ),
    (
        "two models that are damaged",
        all_of(raw(lambda b: b[:-40]), raw(lambda b: b[:-40], "code/model.safetensors")),
        TIES,
        ("math: math/model.safetensors: damaged", "code: code/model.safetensors: damaged"),
    ),
]
INDEXES: list[Case] = [
    (
        "a shard above its folder",
        sharded(lambda i: i["weight_map"].update({"norm.weight": "../base/model.safetensors"})),
        TIES,
        ("'norm.weight' is said to be in '../base/model.safetensors'", "nothing else"),
    ),
    (
        "a shard by an absolute path",
        sharded(lambda i: i["weight_map"].update({"norm.weight": "/etc/passwd.safetensors"})),
        TIES,
        ("'/etc/passwd.safetensors'", "nothing else"),
    ),
    (
        "a shard with an end of line",
        sharded(lambda i: i["weight_map"].update({"norm.weight": "a\n.safetensors"})),
        TIES,
        ("safetensors files beside it and nothing else",),
    ),
    (
        "a shard that is a pickle",
        sharded(lambda i: i["weight_map"].update({"norm.weight": "model.bin"})),
        TIES,
        ("'model.bin'", "safetensors files beside it and nothing else"),
    ),
    (
        "a shard that is missing",
        lambda p: (sharded()(p), (p / "math/model-00002-of-00002.safetensors").unlink()),
        TIES,
        ("model-00002-of-00002.safetensors is missing", AGAIN),
    ),
    (
        "a shard that is cut",
        lambda p: (sharded()(p), raw(lambda b: b[:-3], "math/model-00002-of-00002.safetensors")(p)),
        TIES,
        ("model-00002-of-00002.safetensors: damaged, cut short",),
    ),
    (
        "a tensor that no shard has",
        sharded(lambda i: i["weight_map"].update(ghost="model-00001-of-00002.safetensors")),
        TIES,
        ("'ghost' is not in model-00001-of-00002.safetensors",),
    ),
    (
        "a tensor the index forgets",
        sharded(lambda i: i["weight_map"].pop("norm.weight")),
        TIES,
        ("'norm.weight' of", "is not in the index"),
    ),
    (
        "a tensor in two shards",
        lambda p: (
            sharded()(p),
            shutil.copy(
                p / "math/model-00001-of-00002.safetensors",
                p / "math/model-00002-of-00002.safetensors",
            ),
        ),
        TIES,
        ("is in model-00001-of-00002.safetensors and in model-00002-of-00002.safetensors",),
    ),
    ("an index without a map", sharded(lambda i: i.clear()), TIES, ("no weight_map in it",)),
    (
        "an index that is no JSON",
        lambda p: (sharded()(p), put("math/model.safetensors.index.json", "{")(p)),
        TIES,
        ("model.safetensors.index.json: not readable as JSON",),
    ),
    (
        "an index that is a list",
        lambda p: (sharded()(p), put("math/model.safetensors.index.json", "[1]")(p)),
        TIES,
        ("no weight_map in it",),
    ),
]
ADAPTERS: list[Case] = [
    (
        "an adapter without a base",
        lora({}),
        MEAN,
        ("'math' holds differences to a base, and there is no base",),
    ),
    (
        "DoRA",
        lora({"use_dora": True}),
        TIES,
        ("DoRA rescales whole columns", "fold it into its base with peft first"),
    ),
    (
        "IA3",
        lora({"peft_type": "IA3"}),
        TIES,
        ("a IA3 adapter; only LoRA adapters merge as differences",),
    ),
    (
        "half a pair of factors",
        lora({}, lambda s: s.pop("base_model.model.layers.0.lora_B.weight")),
        TIES,
        ("'base_model.model.layers.0' has A and not both",),
    ),
    (
        "factors of two ranks",
        lora(
            {},
            lambda s: s.update({"base_model.model.layers.0.lora_B.weight": np.ones((4, 3), "f4")}),
        ),
        TIES,
        ("'base_model.model.layers.0' has factors [2, 4] and [4, 3]",),
    ),
    (
        "an adapter of what the base lacks",
        lora({}),
        TIES,
        ("'math' has 'layers.0.weight' that the base lacks",),
    ),
    (
        "an adapter without its α",
        lora({"lora_alpha": None}),
        TIES,
        ("adapter_config.json: lora_alpha",),
    ),
    ("an α that is text", lora({"lora_alpha": "much"}), TIES, ("adapter_config.json: lora_alpha",)),
    (
        "an adapter's settings as a list",
        lambda p: (lora({})(p), put("math/adapter_config.json", "[]")(p)),
        TIES,
        ("not an adapter's configuration",),
    ),
    (
        "an adapter's weights as a pickle",
        lambda p: (
            lora({})(p),
            (p / "math/adapter_model.safetensors").rename(p / "math/adapter_model.bin"),
        ),
        TIES,
        ("adapter_model.bin", "pickle"),
    ),
    (
        "an adapter as the base",
        lora({}),
        "--method ties --base math code",
        ("the base is a LoRA adapter", "name the model it was made from"),
    ),
]
USES: list[Case] = [
    (
        "a base that is not there",
        lambda p: shutil.rmtree(p / "base"),
        TIES,
        ("the base: base: there is no such file or folder",),
    ),
    (
        "a method without its base",
        nothing,
        "--method ties math code",
        ("ties needs the common base checkpoint",),
    ),
    (
        "one model of two",
        nothing,
        "--method slerp math",
        ("slerp merges 2 models beside any base, and there are 1",),
    ),
    (
        "a base of another layout",
        tensors(renamed, "base"),
        TIES,
        ("'math' lacks 'model.steps', 'model.embed.weight'", "'code' lacks 'model.steps'"),
    ),
    (
        "a file that stands where the result goes",
        put("out", "mine"),
        TIES,
        ("out is there already; name another place, or replace it",),
    ),
    (
        "a folder in the way",
        put(".out.merging/notes.txt", "mine"),
        TIES,
        (".out.merging is in the way and was not left by a merge",),
    ),
    (
        "the result among the models",
        nothing,
        "--method average math out",
        ("out: there is no such file or folder",),
    ),
    (
        "units of unknown layout",
        nothing,
        "--method zipit math code",
        ("do not tell which of them hold the same units; give rules",),
    ),
]
CASES = [*SHAPES, *WORDS, *VALUES, *FILES, *INDEXES, *ADAPTERS, *USES]
