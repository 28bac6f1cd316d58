"""Random numbers by place: the same for any order of work, any blocks and any number of workers.

The numbers of a seed and some words (a model, a tensor) are one long sequence, made in chunks by a
counter-based generator (Philox; Salmon et al., 2011) whose key is a hash of seed and words and
whose counter is the number of the chunk. Any run of it is found without what comes before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

CHUNK = 1 << 16  # numbers that are made together


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random numbers of a seed and some words.

    >>> whole = Draws(seed=0, words=("a", "w")).integers(0, 100_000)
    >>> part = Draws(seed=0, words=("a", "w")).integers(70_000, 70_005)
    >>> bool((whole[70_000:70_005] == part).all())
    True
    """

    seed: int
    words: tuple[str, ...]

    def integers(self, start: int, stop: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
        """Numbers ``start`` to ``stop`` of the sequence, each uniform among 0, …, 65535."""
        found = np.empty(stop - start, np.uint16)
        done = start
        while done < stop:
            chunk, skipped = divmod(done, CHUNK)
            count = min(stop - done, CHUNK - skipped)
            numbers = self._chunk(chunk)[skipped : skipped + count]
            found[done - start : done - start + count] = numbers
            done += count
        return found

    def _chunk(self, number: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
        text = "\x00".join((str(self.seed), *self.words)).encode("utf-8", "surrogatepass")
        key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
        counter = [0, 0, number, 0]  # a chunk advances the lowest word only
        words = np.random.Philox(key=key, counter=counter).random_raw(CHUNK // 4)
        return np.asarray(words).view(np.uint16)
