"""Help pages, completion and the doctor: what a newcomer meets first."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from plait.cli import doctor, main
from plait.cli.helping import EXAMPLES
from plait.cli.main import COMMANDS, app


def said(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints."""
    with pytest.raises(SystemExit) as left:
        main.app(list(words), prog_name="plait", standalone_mode=True)
    assert not left.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_page_has_a_summary_and_examples(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = said(command, "--help", capsys=capsys)
    assert f"Usage: plait {command} " in text
    assert "Examples:" in text
    for line in EXAMPLES[command]:
        assert line in text
    assert "<bool>" not in text  # a flag takes no value
    assert "{" not in text.split("\n")[1]  # arguments stand in capitals, without braces


def test_every_example_is_understood_by_the_command_line() -> None:
    group = get_command(app)
    assert set(EXAMPLES) == set(COMMANDS)
    for command, lines in EXAMPLES.items():
        for line in lines:
            program, name, *words = shlex.split(line)
            assert (program, name) == ("plait", command)
            group.commands[name].make_context(name, words, resilient_parsing=False)


def test_the_first_page_lists_every_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = said("--help", capsys=capsys)
    assert all(f" {command} " in text for command in COMMANDS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands(shell: str, tmp_path: Path) -> None:
    words = {
        "bash": {"COMP_WORDS": "plait co", "COMP_CWORD": "1"},
        "zsh": {"_TYPER_COMPLETE_ARGS": "plait co"},
        "fish": {"_TYPER_COMPLETE_ARGS": "plait co", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    program = "from plait.cli.main import app; app(prog_name='plait')"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False,
        env={**os.environ, **words, "_PLAIT_COMPLETE": f"complete_{shell}", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert "compare" in found.stdout
    assert "predict" not in found.stdout


def test_completion_installs_itself(tmp_path: Path) -> None:
    program = "from plait.cli.main import app; app(prog_name='plait')"
    command = shlex.join([sys.executable, "-c", program, "--install-completion"])
    # The shell is the process above, so that a line must follow or bash would give up its place.
    found = subprocess.run(
        ["bash", "-c", f"{command}; true"], capture_output=True, text=True, check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert "completion installed" in found.stdout, found.stderr
    assert "plait" in (tmp_path / ".bashrc").read_text()


# -- the doctor ------------------------------------------------------------------------------------


def test_the_doctor_tells_versions_device_and_extras(capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(said("doctor", "--json", capsys=capsys))
    assert told["broken"] == []
    assert told["packages"]["torch"]
    assert told["threads"] >= 1
    assert told["device"]
    assert set(told["extras"]["boost"]["packages"]) == {"lightgbm"}
    assert told["extras"]["text"]["fix"] == "pip install 'plait[text]'"
    assert "dev" not in told["extras"]
    text = said("doctor", capsys=capsys)
    assert "All that plait needs is there." in text


def test_the_doctor_says_how_to_install_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = doctor.installed
    lacking = {"lightgbm", "polars"}
    monkeypatch.setattr(doctor, "installed", lambda name: None if name in lacking else there(name))
    with pytest.raises(SystemExit) as left:
        main.app(["doctor"], prog_name="plait", standalone_mode=True)
    assert left.value.code == 1
    shown = capsys.readouterr()
    assert "without lightgbm" in shown.out
    assert "pip install 'plait[boost]'" in shown.out
    assert "polars is missing: pip install plait" in shown.err
