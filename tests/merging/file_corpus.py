"""Damaged files, indexes and adapters, and wrong uses: the other half of the bad pools."""

from __future__ import annotations

import json
import shutil

import numpy as np
from pool_damage import (
    AGAIN,
    MEAN,
    TIES,
    WEIGHTS,
    Case,
    all_of,
    first,
    header,
    link_out,
    lora,
    nothing,
    put,
    raw,
    renamed,
    says,
    sharded,
    tensors,
    twice,
)

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
        ("no configuration of peft's",),
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
