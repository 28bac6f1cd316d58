"""What lies beside the weights of a model: configuration, tokenizer, templates.

A merged folder carries these over, so that it loads where its base did. Tokenizers that differ
would give the same numbers to other words: they are compared before a tensor is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plait.weights.adapters import Adapter
from plait.weights.checkpoints import inside, open_checkpoint
from plait.weights.files import DamagedError
from plait.weights.peft_config import CONFIG
from plait.weights.sources import Source

CARRIED = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja",
    "chat_template.json", "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
TEMPLATES = ("chat_template.jinja", "chat_template.json")
MOST = 2**28  # bytes of one file that is carried over
SHOWN = 5


def open_model(path: str | Path) -> Source:
    """A checkpoint or a LoRA adapter; :class:`DamagedError` for anything else."""
    path = Path(path)
    return Adapter(path) if (path / CONFIG).is_file() else open_checkpoint(path)


def companions(path: Path) -> list[Path]:
    """The files beside a model's weights that belong to it."""
    found = []
    for name in CARRIED if path.is_dir() else ():
        file = path / name
        if file.is_file():
            inside(path, file)
            if file.stat().st_size > MOST:
                raise DamagedError(f"{file}: {file.stat().st_size:,} bytes; {MOST:,} are the most")
            found.append(file)
    return found


def tokenizer_differences(one: Path, other: Path) -> Iterator[str]:
    """How the tokenizer of ``other`` differs from that of ``one``, where both have one."""
    mine, theirs = _vocabulary(one), _vocabulary(other)
    if mine is not None and theirs is not None:
        moved = [token for token, number in mine.items() if theirs.get(token, number) != number]
        for words, tokens in (
            ("lacks", [token for token in mine if token not in theirs]),
            ("adds", [token for token in theirs if token not in mine]),
            ("numbers otherwise", moved),
        ):
            if tokens:
                more = f" and {len(tokens) - SHOWN:,} more" if len(tokens) > SHOWN else ""
                yield f"it {words} {', '.join(map(repr, tokens[:SHOWN]))}{more}"
    before, after = _settings(one), _settings(other)
    if before and after:
        for key in (*SPECIAL, "chat_template", *TEMPLATES):
            if _text(before.get(key)) != _text(after.get(key)):
                yield f"its {key} is {_short(after.get(key))}, not {_short(before.get(key))}"


def _vocabulary(folder: Path) -> Mapping[str, int] | None:
    told = _json(folder / "tokenizer.json")
    model = told.get("model") if isinstance(told, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    try:
        if isinstance(vocabulary, list):  # unigram models list pairs of a token and its score
            vocabulary = {pair[0]: number for number, pair in enumerate(vocabulary)}
        if not isinstance(vocabulary, dict):
            return None
        added = {one["content"]: one["id"] for one in told.get("added_tokens") or ()}
    except (TypeError, KeyError, IndexError) as error:
        raise DamagedError(
            f"{folder / 'tokenizer.json'}: its words are not listed as tokenizers lists them"
        ) from error
    return {**vocabulary, **added}


def _settings(folder: Path) -> Mapping[str, Any]:
    """The special words and templates of a tokenizer, those of files by the file's name."""
    told = _json(folder / "tokenizer_config.json")
    if not isinstance(told, dict):
        raise DamagedError(f"{folder / 'tokenizer_config.json'}: not a tokenizer's settings")
    files = [folder / name for name in TEMPLATES if (folder / name).is_file()]
    for file in files:
        inside(folder, file)
    return {**told, **{file.name: file.read_text("utf-8", "replace") for file in files}}


def _json(path: Path) -> Any:
    if not path.is_file() or path.stat().st_size > MOST:
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: not readable as JSON ({error})") from error


def _text(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _short(token: Any) -> str:
    text = repr(_text(token))
    return text if len(text) <= 40 else f"{text[:37]}…"
