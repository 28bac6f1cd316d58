"""Questions about a study that only code with torch can answer, asked together when it is read.

What a method's class or a loss refuses is known to them alone. Reading a study loads neither: where
torch is not loaded yet, they may be asked in a process of its own, which leaves its memory free.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What is wrong with a value, or with what stands at ``where`` inside of it."""

    message: str
    where: tuple[str, ...] = ()


Question = Callable[[], Answer | None]  # None: nothing is wrong. It must survive pickling


def answers(questions: Sequence[Question], *, apart: bool) -> list[Answer | None]:
    """The answers, in order; ``apart``: from another process, unless torch is loaded already."""
    if not questions or not apart or "torch" in sys.modules:
        return [_answer(question) for question in questions]
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    deaf = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is told by the process that asked
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=signal.signal, initargs=deaf
    ) as pool:
        return list(pool.map(_answer, questions))


def _answer(question: Question) -> Answer | None:
    return question()
