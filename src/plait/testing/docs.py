"""The pages made from the cards: ``python -m plait.testing.docs [--check]``.

One page per family, an index with the table of needs, a BibTeX file, and the table of methods in
the README, between its two markers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from plait.method import Entry, Law, Need, Paper
from plait.testing.index import entries

ROOT = Path(__file__).parents[3]
PAGES = Path("docs") / "methods"
MARKS = ("<!-- methods: generated -->", "<!-- methods: end -->")
MADE = "<!-- Made from the cards by python -m plait.testing.docs; edit the cards. -->"

# The families in the order a reader meets them: what each is, and a line of YAML that uses one.
FAMILIES: Mapping[str, tuple[str, str, str]] = {
    "strategy": (
        "Strategies",
        "One way from tasks to one model. A study trains and measures each of them.",
        "strategies: {{{name}: {{}}}}",
    ),
    "sharing": (
        "Sharing",
        "How the tasks share a network between its encoder and their heads.",
        "strategies: {{shared: {{joint: {{sharing: {name}}}}}}}",
    ),
    "balancing": (
        "Balancing",
        "How the losses of several tasks become one update of what they share.",
        "strategies: {{balanced: {{joint: {{balancing: {name}}}}}}}",
    ),
    "procedure": (
        "Procedures",
        "Methods that change the training step itself.",
        "strategies: {{stepped: {{joint: {{procedure: {name}}}}}}}",
    ),
    "adapting": (
        "Adapting",
        "Small modules for each task on one frozen network.",
        "strategies: {{adapted: {{adapt: {name}}}}}",
    ),
    "merging": (
        "Merging",
        "How several models with one start become one, without training them again.",
        "strategies: {{merged: {{merge: {name}}}}}",
    ),
}


def pages() -> dict[Path, str]:
    """Every generated file, by its path below the repository."""
    known = entries()
    found = {PAGES / "README.md": _index(known), PAGES / "papers.bib": _bibtex(known)}
    for family in _families(known):
        found[PAGES / f"{family}.md"] = _page(family, _of(known, family))
    readme = ROOT / "README.md"
    if readme.is_file():
        found[Path("README.md")] = with_table(readme.read_text("utf-8"), known)
    return found


def with_table(text: str, known: list[Entry]) -> str:
    """A README with the table of methods between its markers brought up to date."""
    start, end = MARKS
    if start not in text or end not in text:
        raise ValueError(f"README.md lacks the markers {start} and {end}")
    before, _, rest = text.partition(start)
    after = rest.partition(end)[2]
    rows = [
        f"| [{_title(family)}](docs/methods/{family}.md) | {len(_of(known, family))} | "
        f"{', '.join(f'`{entry.name}`' for entry in _of(known, family))} |"
        for family in _families(known)
    ]
    table = ["| family | count | methods |", "|---|---|---|", *rows]
    said = f"{len(known)} methods so far; each one's page gives its formula, paper and settings."
    return before + "\n".join([start, said, "", *table, end]) + after


def stale() -> list[str]:
    """The generated files that differ from what the cards say now."""
    wrong = []
    fresh = pages()
    for path, text in fresh.items():
        place = ROOT / path
        if not place.is_file() or place.read_text("utf-8") != text:
            wrong.append(path.as_posix())
    known = {ROOT / path for path in fresh}
    extra = [p for p in (ROOT / PAGES).glob("*") if p not in known and p.is_file()]
    return wrong + [p.relative_to(ROOT).as_posix() for p in extra]


def _index(known: list[Entry]) -> str:
    rows = [
        f"| `{entry.key}` | [{entry.summary.rstrip('.')}]({entry.family}.md#{entry.name}) | "
        f"{_cite(entry)} | {_needs(entry)} |"
        for family in _families(known)
        for entry in _of(known, family)
    ]
    return _joined(
        [
            MADE,
            "# Methods",
            (
                f"{len(known)} methods. `plait methods --have base` lists those that can run "
                "with what you have; `plait methods --json` gives this table as data."
            ),
            "\n".join(["| key | what it does | source | needs |", "|---|---|---|---|", *rows]),
            "The papers as BibTeX: [papers.bib](papers.bib).",
        ]
    )


def _page(family: str, known: list[Entry]) -> str:
    title, words, _ = FAMILIES.get(family, (family.capitalize(), "", ""))
    return _joined([MADE, f"# {title}", words, *(_section(entry) for entry in known)])


def _section(entry: Entry) -> str:
    source = sys.modules[entry.load().__module__].__doc__ or ""
    first, _, rest = source.strip().partition("\n\n")
    blocks = [f"## {entry.name}", " ".join(first.split())]
    if rest.strip():
        blocks.append(f"```text\n{rest.strip(chr(10)).rstrip()}\n```")
    example = FAMILIES.get(entry.family, ("", "", ""))[2]
    if example:
        blocks.append(f"```yaml\n{example.format(name=entry.name)}\n```")
    if entry.settings:
        rows = [f"| `{name}` | {_type(row)} | {_default(row)} |" for name, row in _settings(entry)]
        blocks.append("\n".join(["| setting | type | default |", "|---|---|---|", *rows]))
    if entry.needs:
        blocks.append(f"Needs {_needs(entry)}.")
    if entry.laws:
        blocks.append(_list("Promises:", [Law[name].value for name in entry.laws]))
    if entry.deviations:
        blocks.append(_list("Differs from its source:", entry.deviations))
    if entry.exceptions:
        known = [f"`{name}`: {reason}" for name, reason in entry.exceptions.items()]
        blocks.append(_list("Known failures of the contract:", known))
    if entry.paper:
        blocks.append(_reference(entry.paper))
    return _joined(blocks).rstrip("\n")


def _reference(row: Mapping[str, Any]) -> str:
    paper = Paper(**row)
    venue = f", {paper.venue}" if paper.venue else ""
    return f"{paper.authors}: [{paper.title}]({paper.url}){venue}, {paper.year}."


def _bibtex(known: list[Entry]) -> str:
    made = [
        Paper(**entry.paper).bibtex(entry.key.replace(".", "_")) for entry in known if entry.paper
    ]
    return "\n\n".join(made) + "\n" if made else ""


def _families(known: list[Entry]) -> list[str]:
    there = {entry.family for entry in known}
    return [f for f in FAMILIES if f in there] + sorted(there - FAMILIES.keys())


def _of(known: list[Entry], family: str) -> list[Entry]:
    return [entry for entry in known if entry.family == family]


def _title(family: str) -> str:
    return FAMILIES.get(family, (family.capitalize(), "", ""))[0].lower()


def _settings(entry: Entry) -> Iterable[tuple[str, Mapping[str, Any]]]:
    return entry.settings.items()


def _type(row: Mapping[str, Any]) -> str:
    return f"`{row['type']}`".replace("|", "\\|")


def _default(row: Mapping[str, Any]) -> str:
    if "default" not in row:
        return "must be given"
    value = row["default"]
    plain = {None: "none", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return plain[value]
    return f"`{value}`"


def _needs(entry: Entry) -> str:
    return ", ".join(Need(name).words for name in entry.needs) or "nothing"


def _cite(entry: Entry) -> str:
    if not entry.paper:
        return "common knowledge"
    paper = Paper(**entry.paper)
    first = paper.authors.split(" and ")[0]
    family = first.split(",")[0] if "," in first else first.split()[-1]
    others = " et al." if " and " in paper.authors else ""
    return f"[{family}{others} {paper.year}]({paper.url})"


def _list(head: str, items: Iterable[str]) -> str:
    return "\n".join([head, "", *(f"- {item.rstrip('.')}." for item in items)])


def _joined(blocks: Iterable[str]) -> str:
    return "\n\n".join(block for block in blocks if block) + "\n"


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` name those that are stale; the exit status."""
    if "--check" in arguments:
        wrong = stale()
        if wrong:
            sys.stderr.write(f"stale: {', '.join(wrong)}; run python -m plait.testing.docs\n")
        return int(bool(wrong))
    fresh = pages()
    for path, text in fresh.items():
        place = ROOT / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    for name in stale():  # pages of families that are gone
        (ROOT / name).unlink()
    sys.stdout.write(f"{len(fresh)} pages written\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
