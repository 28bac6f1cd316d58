"""Heads of safetensors files, damaged at random: refused or read, never anything else."""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from campaign_toy import Shared, ended, fork

from plait.weights.checkpoints import open_checkpoint
from plait.weights.files import DamagedError
from plait.weights.kinds import SIZES

ROUND = 10_000  # heads that one process reads
SLOW = 1.0  # seconds that no file of a few hundred bytes may take
ROOM = 2**28  # bytes that a process may take beside what it has at the start
TOKENS = (
    b"0", b"-1", b"1e999", b"NaN", b"-Infinity", b"true", b"null", b"[]", b"{}", b'""', b"[[", b"}",
    b"9223372036854775807", b"18446744073709551616", b"1" * 5000, b"0.5", b'"F64"', b'"BOOL"',
    b'"../w"', b'"\\ud800"', b'"\\u0000"', b"\xff\xfe", b"\\", b'"dtype"', b'"data_offsets"',
    b'"__metadata__"', b'"a"', b",", b":", b'"shape":[1,1,1,1,1,1,1,1,1,1]', b"[" * 3000,
    b"[" + b"9223372036854775807," * 500 + b"1]", b'{"a":{}}', b"4294967296",
)  # fmt: skip


def campaign(count: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Damage ``count`` heads; how many were refused and read, and what went wrong."""
    found: dict[str, Any] = {}
    for number, start in enumerate(range(0, count, ROUND)):
        told, some = Shared(), min(ROUND, count - start)
        assert ended(fork(lambda: told.put(_fuzzed(some, folder, seed + number)))) == 0  # noqa: B023
        for word, value in told.get().items():
            most = word in ("slowest ms", "grown by MB")
            found[word] = max(found.get(word, 0), value) if most else found.get(word, 0) + value
    return found


def _fuzzed(count: int, folder: Path, seed: int) -> dict[str, Any]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, most))
    chance, seeds = random.Random(seed), list(_sound())
    path, slowest = folder / "model.safetensors", 0.0
    found = {"mutations": count, "refused": 0, "read": 0, "crashes": 0, "slow": 0}
    for _ in range(count):
        data = _damaged(chance.choice(seeds), chance)
        path.write_bytes(data)
        start = time.perf_counter()
        try:
            found["read" if _read(path) else "refused"] += 1
        except Exception as error:
            found["crashes"] += 1
            sys.stderr.write(f"{type(error).__name__}: {str(error)[:200]}: {data[:300]!r}\n")
        took = time.perf_counter() - start
        found["slow"] += took > SLOW
        slowest = max(slowest, took)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {**found, "slowest ms": round(1e3 * slowest, 1), "grown by MB": round(grown / 1024, 1)}


def _read(path: Path) -> bool:
    """Open a file and read all of its floating tensors, unless it is refused in words."""
    try:
        opened = open_checkpoint(path)
    except DamagedError as error:
        str(error).encode()
        return False
    total = 0
    for site in opened.sites.values():
        total += site.bytes
        if site.floating and site.size:
            opened.read(site.name, 0, site.size, np.empty(site.size, site.working))
        for name in (site.name, *site.aliases):
            name.encode()
    size = path.stat().st_size
    assert total <= size - 8
    return True


def _sound() -> Iterator[bytes]:
    """Whole files: of every type, of many tensors, with tied ones, with none."""
    yield _file({kind: (kind, [2, 3]) for kind in SIZES}, {"format": "pt"})
    yield _file({f"layers.{n}.weight": ("F32", [n]) for n in range(9)}, None)
    yield _file({"embed": ("BF16", [4, 2]), "norm": ("F16", [])}, {"head": "embed"})
    yield _file({}, {"format": "np"})
    yield _file({"wörter": ("F64", [1, 1, 1]), "": ("BOOL", [7])}, None)


def _file(tensors: dict[str, tuple[str, list[int]]], about: dict[str, str] | None) -> bytes:
    head: dict[str, Any] = {} if about is None else {"__metadata__": about}
    done = 0
    for name, (kind, shape) in tensors.items():
        size = int(np.prod(shape)) * SIZES[kind]
        head[name] = {"dtype": kind, "shape": shape, "data_offsets": [done, done + size]}
        done += size
    text = json.dumps(head, ensure_ascii=False).encode()
    return len(text).to_bytes(8, "little") + text + bytes(done)


def _damaged(sound: bytes, chance: random.Random) -> bytes:
    """One to four random changes of a file, most of them in its head."""
    length = int.from_bytes(sound[:8], "little")
    text, rest = bytearray(sound[8 : 8 + length]), sound[8 + length :]
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(text) + 1)
        stop = min(place + chance.choice((1, 1, 2, 5, 20)), len(text))
        match chance.randrange(8):
            case 0 if text:
                text[place % len(text)] ^= 1 << chance.randrange(8)
            case 1:
                text[place:stop] = b""
            case 2:
                text[place:place] = text[place:stop]
            case 3 | 4:
                text[place:stop] = chance.choice(TOKENS)
            case 5:
                _number(text, chance)
            case 6:
                rest = (
                    rest[: chance.randrange(len(rest) + 1)]
                    if chance.random() < 0.5
                    else rest + b"\0"
                )
            case _:
                text[place:place] = chance.choice(TOKENS)
    told = len(text)
    if chance.random() < 0.1:
        told = chance.choice((0, 1, told + 1, told - 1, 2**26 + 1, 2**63, 2**64 - 1, length))
    data = max(told, 0).to_bytes(8, "little") + bytes(text) + rest
    return data[: chance.randrange(len(data) + 1)] if chance.random() < 0.03 else data


def _number(text: bytearray, chance: random.Random) -> None:
    """Change one of the numbers in a head by a little or a lot."""
    places = [place for place, letter in enumerate(text) if 48 <= letter <= 57]
    if places:
        place = chance.choice(places)
        text[place : place + 1] = str(chance.choice((0, 1, 2, 3, 7, 9, 96, 2**31, 2**62))).encode()
