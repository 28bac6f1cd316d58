"""Whatever is wrong with models is one sentence: model, place and fix; nothing is written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from pool_corpus import CASES
from pool_damage import TIES, Damage, good

from plait.cli.main import run


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pools")
    good(folder)
    return folder


def merged(words: str) -> int:
    with pytest.raises(SystemExit) as left:
        run(["merge", *shlex.split(words), "-o", "out"])
    return int(left.value.code or 0)


@pytest.mark.parametrize(
    ("damage", "words", "parts"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_bad_pool_is_refused_in_words(
    sound: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Damage,
    words: str,
    parts: tuple[str, ...],
) -> None:
    import shutil

    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    damage(tmp_path)
    before = sorted(str(path) for path in tmp_path.glob("*"))
    assert merged(words) == 1
    told = re.sub(r"\s+", " ", capsys.readouterr().err)
    for part in parts:
        assert part in told, told
    assert "Traceback" not in told
    assert len(told) < 1500
    assert sorted(str(path) for path in tmp_path.glob("*")) == before


def test_the_sound_pool_merges(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert merged(TIES) == 0
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_there_are_enough_cases_and_none_twice() -> None:
    names = [case[0] for case in CASES]
    assert len(names) == len(set(names)) >= 90
