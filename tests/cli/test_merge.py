from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from plait.cli.main import run
from plait.weights.states import read_state, write_state


def models(folder: Path) -> None:
    draw = np.random.default_rng(0)
    for name in ("base", "math", "code"):
        place = folder / name
        place.mkdir()
        state = {"w": draw.normal(size=(4, 3)).astype(np.float32), "n": np.array([3])}
        write_state(place / "model.safetensors", state)
    (folder / "base" / "config.json").write_text('{"model_type": "toy"}', "utf-8")
    (folder / "recipe.yaml").write_text(
        "base: base\nmodels: [math, code]\nmethod: {task_arithmetic: {scale: 0.5}}\n", "utf-8"
    )


def plait(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        run(["merge", *map(str, words)])
    return int(left.value.code or 0)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    models(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_recipe_becomes_a_folder_that_tells_how_it_was_made(place, capsys):
    assert plait("recipe.yaml", "-o", "out") == 0
    assert "out: 2 models merged by task_arithmetic" in capsys.readouterr().out
    base, math, code = (
        read_state(place / n / "model.safetensors") for n in ("base", "math", "code")
    )
    found = read_state(place / "out" / "model.safetensors")
    wanted = base["w"] + 0.5 * (math["w"] + code["w"] - 2 * base["w"])
    np.testing.assert_allclose(found["w"], wanted, rtol=1e-5, atol=1e-6)
    assert found["n"].tolist() == [3]
    about = json.loads((place / "out" / "merge.json").read_text("utf-8"))
    assert about["recipe"]["method"] == {"task_arithmetic": {"scale": 0.5}}
    assert list(about["parents"]) == ["base", "math", "code"]
    assert [row["name"] for row in about["tensors"]] == ["n", "w"]
    change = np.linalg.norm(wanted - base["w"]) / np.linalg.norm(wanted)
    assert about["tensors"][1]["change"] == pytest.approx(change, rel=1e-5)
    assert (place / "out" / "config.json").read_text("utf-8") == '{"model_type": "toy"}'
    card = (place / "out" / "README.md").read_text("utf-8")
    assert card.startswith("---\ntags: [merge, plait]\nlibrary_name: transformers\n---\n")


def test_one_line_is_the_same_merge(place):
    assert plait("recipe.yaml", "-o", "one") == 0
    method = "{task_arithmetic: {scale: 0.5}}"
    assert plait("--method", method, "--base", "base", "math", "code", "-o", "two") == 0
    first, second = (read_state(place / n / "model.safetensors") for n in ("one", "two"))
    assert first["w"].tobytes() == second["w"].tobytes()


def test_a_dry_run_compares_and_writes_nothing(place, capsys):
    assert plait("recipe.yaml", "--dry-run") == 0
    said, warned = capsys.readouterr()
    assert "2 models fit: 2 tensors" in said
    assert "- the task vectors of math and code have the cosine" in said
    assert "'math' shares little with the base" in warned
    assert "1 integer tensors are copied" in said
    assert not (place / "out").exists()


def test_a_whole_folder_verifies_and_a_touched_one_does_not(place, capsys):
    plait("recipe.yaml", "-o", "out")
    assert plait("--verify", "out") == 0
    assert "out is whole" in capsys.readouterr().out
    weights = place / "out" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert plait("--verify", "out") == 1
    assert "model.safetensors (altered)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["math", "-o", "x"], "say how to merge: --method NAME"),
        (["-o", "x"], "name a recipe, or models"),
        (["--method", "tie", "math", "-o", "x"], "no merging method 'tie'; did you mean 'ties'?"),
        (["--method", "{ties: {kep: 1}}", "math", "-o", "x"], "did you mean 'keep'?"),
        (["--method", "ties", "math", "-o", "x"], "ties needs the common base checkpoint"),
        (["--method", "average", "math", "nowhere", "-o", "x"], "no such file or folder"),
        (["--method", "average", "math"], "say where to write: -o FOLDER"),
        (["recipe.yaml", "--method", "ties", "-o", "x"], "leave out the options"),
        (["recipe.yaml", "-o", "math"], "math is there already"),
        (["recipe.yaml", "--tokenizer", "union", "-o", "x"], "--tokenizer is base or refuse"),
    ],
)
def test_a_mistake_is_one_clear_sentence(place, capsys, words, said):
    assert plait(*words) == 1
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
    assert not (place / "x").exists()


def test_every_mistake_of_a_recipe_has_its_line(place, capsys):
    (place / "recipe.yaml").write_text(
        "bas: base\nmodels: 3\nmethod: {ties: {kep: 0.1}}\ntokenizer: union\n", "utf-8"
    )
    assert plait("recipe.yaml", "-o", "x") == 1
    said = capsys.readouterr().err
    mistakes = ("no key 'bas'", "models are written", "no key 'kep'", "base or refuse")
    for line, words in enumerate(mistakes, 1):
        assert f"recipe.yaml:{line}:" in said
        assert words in said


def test_no_torch_is_loaded(place):
    code = (
        "import sys; from plait.cli.main import run\n"
        "try:\n    run(['merge', 'recipe.yaml', '-o', 'out'])\n"
        "except SystemExit as left:\n    assert not left.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_merger_that_looks_at_data_says_what_is_missing_and_what_could_run(place, capsys):
    (place / "recipe.yaml").write_text("base: base\nmodels: [math, code]\nmethod: adamerging\n")
    assert plait("recipe.yaml", "-o", "out") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "adamerging needs" in said
    assert "unlabelled inputs per task" in said
    assert "with what there is these can run: " in said
    assert not (place / "out").exists()


@pytest.mark.parametrize("name", ["math", "base"])
def test_allowed_nan_are_counted_and_told_on_the_card(place, capsys, name):
    path = place / name / "model.safetensors"
    write_state(path, {"w": np.full((4, 3), np.nan, np.float32), "n": np.array([3])})
    words = ["--method", "ties", "--base", "base", "math", "code", "-o", "out"]
    assert plait(*words) == 1
    assert "NaN or infinite values" in capsys.readouterr().err
    assert plait(*words, "--allow-nonfinite") == 0
    tensors = {
        t["name"]: t for t in json.loads((place / "out" / "merge.json").read_text())["tensors"]
    }
    assert tensors["w"]["nonfinite"] > 0
    assert "norm" not in tensors["w"]
    assert "values in 1 of the merged tensors: w." in (place / "out" / "README.md").read_text()
