"""The notebook runs from top to bottom and ends with the leaderboard; it is stored clean."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PATH = Path(__file__).parents[1] / "examples" / "notebook.ipynb"


def test_the_notebook_is_stored_clean():
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None)
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq")
@pytest.mark.filterwarnings("ignore:Proactor event loop")
def test_the_notebook_ends_with_the_leaderboard(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(PATH, as_version=4)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    (last,) = notebook.cells[-1].outputs
    shown = last.data["text/html"]
    assert shown.count("<table") == 1
    rows = re.findall(r"<tr.*?</tr>", shown, re.DOTALL)
    labels = ("separate", "joint", "experts", "prior", "linear", "forest")
    for label in labels:
        assert any(label in row for row in rows), label
    errors = [
        out
        for cell in notebook.cells
        for out in cell.get("outputs", ())
        if out.output_type == "stream" and out.name == "stderr" and "Warning" in out.text
    ]
    assert not errors
