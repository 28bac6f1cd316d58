"""Bad pools, each with what is told of it.

A case is a name, what is done to the three folders ``base``, ``math`` and ``code``, words of the
command after ``plait merge``, and parts of the message: the file or model, the tensor or key, the
fix.
"""

from __future__ import annotations

import numpy as np
from file_corpus import ADAPTERS, FILES, INDEXES, USES
from pool_damage import (
    AGAIN,
    MEAN,
    TIES,
    Case,
    all_of,
    at,
    cast,
    edit,
    put,
    renamed,
    shaped,
    stored,
    tensors,
    tied_to,
)

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

CASES = [*SHAPES, *WORDS, *VALUES, *FILES, *INDEXES, *ADAPTERS, *USES]
