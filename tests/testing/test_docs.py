from __future__ import annotations

from plait.method import Entry
from plait.testing import docs

ENTRY = Entry(
    key="merging.ties",
    module="plait.merging.average",
    cls="Average",
    summary="Trims, elects signs, averages.",
    paper={
        "title": "TIES-Merging",
        "authors": "Prateek Yadav and Derek Tam",
        "year": 2023,
        "venue": "NeurIPS",
        "url": "https://arxiv.org/abs/2306.01708",
    },
    needs=("base", "unlabelled"),
    laws=("PERMUTATION",),
    deviations=("trims per tensor",),
    exceptions={"translation": "it cannot"},
    settings={
        "keep": {"type": "float | None", "default": 0.2},
        "scale": {"type": "float", "default": None},
        "models": {"type": "int"},
    },
)


def test_a_section_says_all_that_the_card_does():
    text = docs._section(ENTRY)
    assert text.startswith("## ties\n")
    assert "| `keep` | `float \\| None` | `0.2` |" in text
    assert "| `scale` | `float` | none |" in text
    assert "| `models` | `int` | must be given |" in text
    assert "Needs the common base checkpoint, unlabelled inputs per task." in text
    assert "- permuting tasks permutes the result." in text
    assert "- trims per tensor." in text
    assert "- `translation`: it cannot." in text
    assert "[TIES-Merging](https://arxiv.org/abs/2306.01708), NeurIPS, 2023." in text


def test_the_index_cites_in_short():
    assert docs._cite(ENTRY) == "[Yadav et al. 2023](https://arxiv.org/abs/2306.01708)"
    text = docs._index([ENTRY])
    assert "| `merging.ties` | [Trims, elects signs, averages](merging.md#ties) |" in text
    assert "1 methods. `plait methods" in text


def test_bibtex_keys_are_unique_and_plain():
    assert docs._bibtex([ENTRY]).startswith("@inproceedings{merging_ties,\n")


def test_the_readme_keeps_what_is_not_generated():
    start, end = docs.MARKS
    text = docs.with_table(f"before\n{start}\nold\n{end}\nafter\n", [ENTRY])
    assert text.startswith(f"before\n{start}\n1 methods so far")
    assert text.endswith(f"{end}\nafter\n")
    assert "old" not in text
    assert "| [merging](docs/methods/merging.md) | 1 | `ties` |" in text
    assert docs.with_table(text, [ENTRY]) == text
