"""Text as token numbers: a bag of hashed n-grams, or the tokens of a pretrained encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plait.data.errors import DataError
from plait.data.profile import Profile
from plait.data.stores import Array, mix, spans
from plait.method import did_you_mean

PIECE = 1_000_000  # characters hashed at a time
_PRIME = 0x9E3779B97F4A7C15
_INVERSE = pow(_PRIME, -1, 2**64)
SEPARATOR = " | "


@dataclass(frozen=True, kw_only=True)
class Bag:
    """Every n-gram of a text once, hashed into ``buckets``; 0 is padding, 1 … are buckets.

    By default about as many buckets as training texts, between 2¹⁰ and 2¹⁵.

    ``prose`` (texts with blanks): words, pairs of words, and the character n-grams of each word,
    all in lower case. Otherwise (codes, molecules, sequences): the n-grams of the whole string as
    it is. ``characters`` are the shortest and longest n-grams. At most ``most`` a text, words
    first.
    """

    prose: bool = True
    buckets: int = 2**15
    characters: tuple[int, int] = (4, 4)
    most: int = 512

    @classmethod
    def fit(cls, settings: Mapping[str, Any], profile: Profile) -> Bag:
        """The bag for a column; what the settings leave open is read from the training rows."""
        present = max(profile.rows - profile.missing, 1)
        prose = bool(settings.get("prose", profile.words / present >= 1.5))
        low, high = settings.get("characters", (4, 4) if prose else (1, 6))
        # About as many buckets as training texts: a larger table costs every step, to no avail.
        enough = 2 ** min(max((present - 1).bit_length(), 10), 15)
        buckets, most = int(settings.get("buckets", enough)), int(settings.get("most", 512))
        if not 0 < low <= high:
            raise DataError(f"bag: characters must be [shortest, longest], got [{low}, {high}]")
        if not (0 < buckets < 2**31 and most > 0):
            raise DataError("bag: buckets and most must be positive")
        return cls(prose=prose, buckets=buckets, characters=(int(low), int(high)), most=most)

    @property
    def size(self) -> int:
        """Token numbers, padding included."""
        return self.buckets + 1

    def encode(self, columns: list[pl.Series]) -> tuple[Array, Array]:
        """The tokens of each text: lengths [n], and all tokens one after another."""
        texts = _joined(columns)
        texts = texts.str.normalize("NFC")
        if self.prose:
            texts = texts.str.to_lowercase()
        size = texts.str.len_chars().to_numpy().astype(np.int64)
        pieces, start = [], 0
        ends = np.cumsum(size)
        while start < len(texts):
            done = ends[start - 1] if start else 0
            stop = max(int(np.searchsorted(ends, done + PIECE, side="right")), start + 1)
            pieces.append(self._piece(texts[start:stop].to_list(), size[start:stop]))
            start = stop
        lengths = np.concatenate([each for each, _ in pieces]) if pieces else np.zeros(0, np.int64)
        values = np.concatenate([each for _, each in pieces]) if pieces else np.zeros(0, np.int32)
        return lengths, values

    def _piece(self, texts: list[str], size: Array) -> tuple[Array, Array]:
        codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32).astype(np.uint64)
        owner = np.repeat(np.arange(len(texts)), size)
        found = self._prose(codes, owner) if self.prose else self._plain(codes, owner, size)
        row = np.concatenate([each for each, _ in found])
        bucket = np.concatenate([each for _, each in found]) % np.uint64(self.buckets)
        both = (row << 32) | bucket.astype(np.int64)
        # The first place of each bucket in its row: words come before pairs and characters.
        both, first = np.unique(both, return_index=True)
        row = both >> 32
        order = np.lexsort((first, row))
        row, bucket = row[order], both[order] & 0xFFFFFFFF
        lengths = np.bincount(row, minlength=len(texts))
        place = spans(np.zeros_like(lengths), lengths)
        kept = place < self.most
        return np.minimum(lengths, self.most), (bucket[kept] + 1).astype(np.int32)

    def _plain(self, codes: Array, owner: Array, size: Array) -> list[tuple[Array, Array]]:
        prefix = _Prefix(codes)
        starts = np.concatenate([[0], np.cumsum(size)[:-1]]).astype(np.int64)
        return self._grams(prefix, starts, size, owner)

    def _grams(
        self, prefix: _Prefix, starts: Array, size: Array, owner: Array
    ) -> list[tuple[Array, Array]]:
        found = []
        for n in range(self.characters[0], self.characters[1] + 1):
            at = spans(starts, np.maximum(size - n + 1, 0))
            found.append((owner[at], mix(prefix.hash(at, n) + np.uint64(n))))
        return found

    def _prose(self, codes: Array, owner: Array) -> list[tuple[Array, Array]]:
        kinds, inverse = np.unique(codes, return_inverse=True)
        inside = np.array([chr(int(code)).isalnum() for code in kinds], dtype=bool)[inverse]
        blank = np.array([chr(int(code)).isspace() for code in kinds], dtype=bool)[inverse]
        # A word is a run of letters and digits of one text; any other sign stands alone.
        joined = inside[1:] & inside[:-1] & (owner[1:] == owner[:-1])
        starts = np.flatnonzero(np.concatenate([[True], ~joined])) if len(codes) else owner
        size = np.diff(np.concatenate([starts, [len(codes)]]))
        starts, size = starts[~blank[starts]], size[~blank[starts]]
        prefix = _Prefix(codes)
        words, whose = prefix.hash(starts, size) + np.uint64(1 << 40), owner[starts]
        pairs = (whose[1:] == whose[:-1]) if len(whose) else np.zeros(0, bool)
        both = mix(words[:-1])[pairs] * np.uint64(3) + words[1:][pairs]
        long = size > self.characters[0]
        return [
            (whose, mix(words)),
            (whose[1:][pairs], mix(both)),
            *self._grams(prefix, starts[long], size[long], owner),
        ]

    def to_json(self) -> dict[str, Any]:
        """The settings as plain data."""
        return {
            "prose": self.prose, "buckets": self.buckets,
            "characters": list(self.characters), "most": self.most,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Bag:
        """Read :meth:`to_json` back."""
        return cls(**{**data, "characters": tuple(data["characters"])})


class _Prefix:
    """Polynomial hashes modulo 2^64 of any span of a string, from one pass over it."""

    def __init__(self, codes: Array) -> None:
        powers = np.full(len(codes) + 1, _PRIME, dtype=np.uint64)
        powers[:1] = 1
        terms = (codes + np.uint64(1)) * np.cumprod(powers)[:-1]
        self.sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
        inverse = np.full(len(codes) + 1, _INVERSE, dtype=np.uint64)
        inverse[:1] = 1
        self.inverse = np.cumprod(inverse)

    def hash(self, start: Array, length: Array | int) -> Array:
        found: Array = (self.sums[start + length] - self.sums[start]) * self.inverse[start]
        return found


def fingerprints(texts: pl.Series) -> Array:
    """A stable 64-bit number for each text [n]."""
    listed = texts.cast(pl.String).fill_null("").to_list()
    found = []
    for start in range(0, len(listed), 65_536):
        piece = listed[start : start + 65_536]
        size = np.array([len(text) for text in piece], dtype=np.int64)
        codes = np.frombuffer("".join(piece).encode("utf-32-le"), np.uint32).astype(np.uint64)
        starts = np.concatenate([[0], np.cumsum(size)[:-1]]).astype(np.int64)
        found.append(mix(_Prefix(codes).hash(starts, size) + size.astype(np.uint64)))
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens of a pretrained encoder's own tokenizer, shifted by one: 0 is padding.

    ``tokenizer`` is the whole tokenizer as JSON, so that nothing else is needed later; where it was
    found is not kept, so that a run that is moved or opened elsewhere has the same data.
    """

    tokenizer: str
    max_length: int = 128

    @classmethod
    def fit(cls, settings: Mapping[str, Any], base: Path | None) -> Tokens:
        """Load the tokenizer of ``pretrained`` (a folder or a hub name)."""
        pretrained = settings.get("pretrained")
        if not isinstance(pretrained, str):
            raise DataError("text: transformer needs pretrained: a folder or a hub name")
        return cls(
            tokenizer=_tokenizer(pretrained, base),
            max_length=int(settings.get("max_length", 128)),
        )

    @property
    def size(self) -> int:
        """Token numbers, padding included."""
        return int(self._load().get_vocab_size()) + 1

    def _load(self) -> Any:
        loaded = _LOADED.get(self.tokenizer)
        if loaded is None:
            loaded = _LOADED[self.tokenizer] = _tokenizers().Tokenizer.from_str(self.tokenizer)
            loaded.no_padding()
        loaded.enable_truncation(self.max_length)
        return loaded

    def encode(self, columns: list[pl.Series]) -> tuple[Array, Array]:
        """The tokens of each text or pair: lengths [n], and all tokens one after another."""
        first = columns[0].cast(pl.String).fill_null("").to_list()
        texts: list[Any] = first
        if len(columns) > 1:
            texts = list(zip(first, _joined(columns[1:]).to_list(), strict=True))
        coded = [each.ids for each in self._load().encode_batch(texts)]
        lengths = np.array([len(ids) for ids in coded], dtype=np.int64)
        values = np.concatenate(coded) if coded else np.zeros(0)
        return lengths, values.astype(np.int32) + 1

    def to_json(self) -> dict[str, Any]:
        """The settings and the tokenizer as plain data."""
        return {"tokenizer": self.tokenizer, "max_length": self.max_length}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tokens:
        """Read :meth:`to_json` back."""
        return cls(**data)


_LOADED: dict[str, Any] = {}


def _joined(columns: list[pl.Series]) -> pl.Series:
    texts = [column.cast(pl.String).fill_null("") for column in columns]
    together = texts[0]
    for other in texts[1:]:
        together = together + SEPARATOR + other
    return together


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise DataError("a transformer needs the extra: pip install 'plait[text]'") from error
    return tokenizers


def _tokenizer(pretrained: str, base: Path | None) -> str:
    library = _tokenizers()
    folder = Path(pretrained).expanduser()
    folder = base / folder if base and not folder.is_absolute() else folder
    if (folder / "tokenizer.json").is_file():
        return str(library.Tokenizer.from_file(str(folder / "tokenizer.json")).to_str())
    try:
        from transformers import AutoTokenizer

        where = str(folder) if folder.is_dir() else pretrained
        loaded = AutoTokenizer.from_pretrained(where, use_fast=True)
        return str(loaded.backend_tokenizer.to_str())
    except ImportError as error:
        raise DataError("a transformer needs the extra: pip install 'plait[text]'") from error
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"text: no tokenizer in {pretrained!r}: {error}") from error


def text_of(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """How the encoder wants texts to be read: ``{"bag": {…}}`` or ``{"transformer": {…}}``."""
    form = encoder.get("text") or "bag"
    if isinstance(form, str):
        return {form: {}}
    return {name: dict(settings or {}) for name, settings in form.items()}


def text_encoding(text: Mapping[str, Any], profile: Profile, base: Path | None) -> Bag | Tokens:
    """The encoding that ``{"bag": {...}}`` or ``{"transformer": {...}}`` asks for."""
    ((name, settings),) = text.items()
    if name == "bag":
        return Bag.fit(settings or {}, profile)
    if name == "transformer":
        return Tokens.fit(settings or {}, base)
    raise DataError(f"text: no encoder {name!r}{did_you_mean(str(name), ('bag', 'transformer'))}")
