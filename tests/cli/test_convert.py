from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from plait.cli.main import run
from plait.weights import pickles, unpickle
from plait.weights.states import read_state


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Read in this process; that another one does it is tested beside the code."""

    def one(source: Path, target: Path, key: str | None, *limits: Any) -> dict[str, Any]:
        assert limits == (2**31, 90.0)
        return unpickle.convert(source, target, {"key": key, "memory": 2**30})

    monkeypatch.setattr(pickles, "_one", one)
    monkeypatch.chdir(tmp_path)


def plait(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        run(["convert", *words, "--memory", "2", "--time", "90s"])
    return int(left.value.code or 0)


def test_what_was_written_and_what_was_left_out_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    shared = torch.ones(2)
    value = {"net": {"a": shared, "b": shared}, "a\x1b[31m\nb": 3}
    torch.save(value, "run.pt")
    assert plait("run.pt", "-o", "out") == 0
    out, err = capsys.readouterr()
    assert out == (
        "Written: out/run.safetensors: 2 tensors, 1 of them tied to another, from 'net', 0.00 GB.\n"
    )
    assert err == "warning: left out, no tensor by name: a b (int '3')\n"
    assert list(read_state("out/run.safetensors")) == ["a"]


def test_json_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"w": torch.ones(2), **{f"n{number}": number for number in range(40)}}, "x.pt")
    assert plait("x.pt", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == ["x.safetensors"]
    assert len(told["left"]) == 40
    assert plait("x.pt", "--replace") == 0
    assert "and 10 more; --json names all of them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing.pt",), "nothing.pt: there is no such file or folder"),
        (("x.pt", "--memory", "0"), "--memory is a number of GiB above 0"),
        (("x.pt", "--time", "soon"), "no time 'soon'; write 90s"),
    ],
)
def test_a_mistake_is_one_clear_sentence(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    torch.save({"w": torch.ones(2)}, "x.pt")
    with pytest.raises(SystemExit) as left:
        run(["convert", *words])
    assert left.value.code == 1
    assert said in capsys.readouterr().err
