from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from exports import compared, fresh_rows
from safetensors.torch import load_file

from plait.comparing import Study
from plait.exporting import ExportError, export_hf

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
tokenizers = pytest.importorskip("tokenizers")

# transformers and peft warn about each other; plait keeps that off the terminal.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture
def rows(texts: Path) -> pl.DataFrame:
    return pl.read_parquet(texts / "rows.parquet").drop("a", "b").head(9)


def by_the_readme(folder: Path, texts: list[str], task: str) -> np.ndarray:
    """What the folder's README does, for each text alone; the raw numbers of the head."""
    code = (folder / "README.md").read_text("utf-8").split("```python\n")[1].split("```")[0]
    number = [each["name"] for each in json.loads((folder / "heads.json").read_text())["tasks"]]
    code = code.replace('["tasks"][0]', f'["tasks"][{number.index(task)}]')
    found = []
    for text in texts:
        scope: dict = {}
        own = code.replace('"a text"', repr(text)).replace('"heads.', f'"{folder}/heads.')
        own = own.replace('from_pretrained(".")', f'from_pretrained("{folder}")')
        own = own.replace('"tokenizer.json"', f'"{folder}/tokenizer.json"')
        own = own.replace('task["adapter"])', f'"{folder}/" + task["adapter"])')
        exec(own.replace("json.load(open(", "json.loads(__import__('pathlib').Path("
             ).replace('heads.json"))', 'heads.json").read_text())'), scope)  # fmt: skip
        found.append(scope["raw"][0].numpy())
    return np.array(found)


@pytest.mark.parametrize("label", ["joint", "adapted", "sparse", "whole"])
def test_the_folder_gives_what_plait_gives(
    on_text: Study, tmp_path: Path, rows: pl.DataFrame, label: str
) -> None:
    predictor, folder = on_text.best(label), tmp_path / "hf"
    told = export_hf(predictor, folder, rows=rows)
    assert told["difference"] <= 1e-5
    ours = predictor.predict(rows)
    texts = rows["text"].to_list()
    raw = by_the_readme(folder, texts, "a")[:, 0]
    np.testing.assert_allclose(1 / (1 + np.exp(-raw)), ours["a"], atol=1e-5)
    real = json.loads((folder / "heads.json").read_text())["tasks"][1]
    value = by_the_readme(folder, texts, "b")[:, 0] * real["scale"] + real["center"]
    np.testing.assert_allclose(value, ours["b"], rtol=1e-5)
    assert (folder / "adapters").exists() == (label in ("adapted", "sparse"))


def test_adapters_are_peft_s_and_matter(on_text: Study, tmp_path: Path, rows: pl.DataFrame) -> None:
    folder = tmp_path / "hf"
    export_hf(on_text.best("adapted"), folder, rows=rows)
    plain = transformers.AutoModel.from_pretrained(folder).eval()
    ids = torch.tensor([[4, 5, 6]])
    with torch.no_grad():
        before = plain(input_ids=ids)[0]
        adapted = peft.PeftModel.from_pretrained(plain, folder / "adapters" / "1").eval()
        after = adapted(input_ids=ids)[0]
    assert adapted.peft_config["default"].r == 2
    assert not torch.allclose(before, after, atol=1e-4)


def test_names_of_tasks_are_no_names_of_files(texts: Path, tmp_path: Path) -> None:
    frame = pl.read_parquet(texts / "rows.parquet").rename({"a": "../<b>a</b>", "b": "type"})
    encoder = {"text": {"transformer": {"pretrained": str(texts / "model")}},
               "trunk": {"mlp": {"depth": 0}}}  # fmt: skip
    study = compared(
        frame, tmp_path / "run", ["../<b>a</b>", "type"], strategies=["joint"], encoder=encoder
    )
    folder = tmp_path / "out" / "hf"
    export_hf(study.best("joint"), folder, rows=frame)
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "config.json", "heads.json", "heads.safetensors", "manifest.json",
        "model.safetensors", "tokenizer.json",
    }  # fmt: skip
    assert set(load_file(folder / "heads.safetensors")) == {
        "heads.0.weight", "heads.0.bias", "heads.1.weight", "heads.1.bias",
    }  # fmt: skip
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["hf"]


def test_a_bundle_is_a_folder_for_each_network(
    on_text: Study, tmp_path: Path, rows: pl.DataFrame
) -> None:
    told = export_hf(on_text.best("separate"), tmp_path / "hf", rows=rows)
    assert set(told["outputs"]) == {"a", "b"}
    for number in (0, 1):
        transformers.AutoModel.from_pretrained(tmp_path / "hf" / "members" / str(number))


def test_what_has_no_place_there_is_refused(
    exported: Study, on_text: Study, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="transformer encoders, and this model has none"):
        export_hf(exported.best("joint"), tmp_path / "hf", rows=fresh_rows())
    with pytest.raises(ExportError, match="more between them; use --onnx"):
        export_hf(exported.best("experts"), tmp_path / "hf", rows=fresh_rows())
    with pytest.raises(ExportError, match="not a model of sort 'estimators'"):
        export_hf(on_text.best("prior"), tmp_path / "hf")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(ExportError, match="is not empty"):
        export_hf(on_text.best("joint"), tmp_path)
