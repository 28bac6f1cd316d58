"""Every key and every name of a study, misspelt: reported at its line, with what was meant."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from misspelling import Word, misspelt, words

from plait.method import nearest
from plait.recipes import RecipeError, loads
from plait.task import KINDS
from test_examples import PAGES, RECIPES, kept, studies

ROOT = Path(__file__).parents[3]
HINTS = {hint for kind in KINDS.values() for hint in kind.hints}  # "count" is another "counts"


def sources() -> list[pytest.param]:
    """Every study printed anywhere, and each file of recipes."""
    found = [(path.name, path.read_text("utf-8")) for path in RECIPES]
    for page in PAGES:
        for block in kept(page.read_text("utf-8"), "yaml"):
            found += [(f"{page.name}:{block.line}", text) for text in studies(block.text)]
    return [pytest.param(text, id=name) for name, text in found]


def problem(source: str, word: Word, wrong: str) -> str:
    """What is amiss with the report of one misspelling; empty where it is good."""
    try:
        loads(source[: word.start] + wrong + source[word.end :])
    except RecipeError as error:
        here = [one for one in error.mistakes if one.startswith(f"study.yaml:{word.line}: ")]
        if not any(repr(wrong) in one for one in here):
            # A name that is valid elsewhere: what stands under it says what is wrong.
            return "" if here and wrong + "s" == word.text else f"not told at its line: {error}"
        if not any(word.text in one for one in here):
            return f"the right name is not told: {error}"
        if "did you mean" not in str(error) and nearest(wrong, [word.text]) and len(wrong) > 3:
            return "" if word.path[-1] == "device" else f"no suggestion: {error}"
        return "" if len(error.mistakes) == 1 else f"one mistake told as several: {error}"
    return "accepted"


@pytest.mark.parametrize("source", sources())
def test_a_misspelt_word_is_told_with_its_line_and_the_right_name(source: str) -> None:
    """One way of misspelling each word, drawn by a fixed seed; the slow test takes them all."""
    draw = random.Random(len(source))
    for word in words(source):
        choices = [wrong for wrong in misspelt(word.text) if wrong not in HINTS]
        wrong = draw.choice(choices)
        assert problem(source, word, wrong) == "", f"{'.'.join(map(str, word.path))}: {wrong}"


@pytest.mark.slow
def test_every_way_of_misspelling_every_word(capsys: pytest.CaptureFixture[str]) -> None:
    count, found = 0, []
    for parameter in sources():
        (source,) = parameter.values
        for word in words(source):
            for wrong in misspelt(word.text):
                if wrong in HINTS:
                    continue
                count += 1
                if said := problem(source, word, wrong):
                    found.append(f"{parameter.id} line {word.line}: {wrong}: {said}")
    with capsys.disabled():
        told = f"{count - len(found):,} told with line and right name"
        sys.stdout.write(f"\n{count:,} misspelt words, {told}\n")
    assert not found, "\n".join(found[:20])


def test_all_words_misspelt_at_once_are_told_in_one_pass() -> None:
    source = (ROOT / "recipes" / "census.yaml").read_text("utf-8")
    named = [word for word in words(source) if word.path[:1] == ("training",)]
    named = [word for word in named if len(word.path) > 1]
    named += [word for word in words(source) if word.path[-1] in {"init", "trunk", "uncertainty"}]
    named.sort(key=lambda word: -word.start)
    wrong = source
    for word in named:
        wrong = wrong[: word.start] + word.text[1:] + wrong[word.end :]
    with pytest.raises(RecipeError) as caught:
        loads(wrong)
    told = [int(one.split(":")[1]) for one in caught.value.mistakes]
    assert told == sorted(word.line for word in named)
    assert len(told) >= 4
