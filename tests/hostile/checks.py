"""What must hold of every output, however hostile the names in it; each check says what broke."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from html.parser import HTMLParser

from markdown_it import MarkdownIt

# Elements of the report, of a notebook's table and of a rendered card; no other may appear.
REPORT = {
    "html", "head", "meta", "title", "style", "body", "header", "p", "span", "button", "main",
    "section", "h1", "h2", "h3", "ul", "li", "dl", "dt", "dd", "div", "nav", "a", "abbr", "b",
    "i", "table", "thead", "tbody", "tr", "th", "td", "small", "svg", "text", "line", "path",
    "use", "defs", "clippath", "g", "rect", "circle", "form", "label", "input", "select",
    "option", "details", "summary", "figure", "figcaption", "img", "pre", "code", "script",
}  # fmt: skip
TABLE = {
    "table", "thead", "tbody", "tr", "th", "td", "p", "div", "style", "b", "small", "span",
}  # fmt: skip
MARKDOWN = {
    "h1", "h2", "h3", "p", "strong", "em", "ul", "li", "table", "thead", "tbody", "tr", "th",
    "td", "pre", "code", "hr",
}  # fmt: skip
COMMANDS = {
    "begin", "end", "centering", "caption", "label", "toprule", "midrule", "bottomrule",
    "endhead", "endlastfoot", "textbackslash", "textasciitilde", "textasciicircum", "textless",
    "textgreater", "textbar", "char", "textsuperscript", "star", "dots", "blacktriangle",
    "blacktriangledown", "approx", "times", "Delta", "rho", "kappa", "mu",
}  # fmt: skip
HIDDEN = {"Cc", "Cs"}
REORDER = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Elements(HTMLParser):
    """Elements and attributes as a browser's parser finds them."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def markup(source: str, allowed: set[str], scripts: int = 0) -> list[str]:
    """Elements that are not the page's own, handlers, styles and addresses that lead away."""
    wrong = []
    elements = Elements(source).found
    if (count := sum(tag == "script" for tag, _ in elements)) != scripts:
        wrong.append(f"{count} scripts instead of {scripts}")
    for tag, attributes in elements:
        if tag not in allowed:
            wrong.append(f"an element {tag}")
        for name, value in attributes.items():
            aligned = name == "style" and value in {"text-align:left", "text-align:right"}
            if name.startswith("on") or name in {"srcdoc", "action", "formaction"}:
                wrong.append(f"an attribute {name} of {tag}")
            if name == "style" and not aligned:
                wrong.append(f"an attribute {name} of {tag}")
            own = re.match(r"#|data:image/(png|jpeg|gif|webp|svg\+xml);base64,", value or "")
            if name in {"href", "src", "xlink:href"} and not own:
                wrong.append(f"{name}={(value or '')[:40]!r} of {tag}")
    return wrong


def markdown(source: str) -> list[str]:
    """What a renderer that lets HTML through makes of a Markdown text."""
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(source)
    return markup(rendered, MARKDOWN) + controls(source, "\n\t")


def latex(source: str) -> list[str]:
    """Commands that are not the report's own, and groups or tables that do not close."""
    wrong = controls(source)
    body = re.sub(r"^%.*$", "", source, flags=re.MULTILINE)
    used = set(re.findall(r"\\([A-Za-z]+)", body))
    wrong += [f"a command \\{name}" for name in sorted(used - COMMANDS)]
    plain = re.sub(r"\\[^A-Za-z]", "", body)
    if plain.count("{") != plain.count("}"):
        wrong.append("braces that do not close")
    wrong += [f"a bare {mark}" for mark in "%#^~_" if mark in plain]
    if body.count(r"\begin{") != body.count(r"\end{"):
        wrong.append("an environment that does not close")
    return wrong


def sheet(source: str, columns: int) -> list[str]:
    """Cells that a spreadsheet would run, and rows that lost or gained cells."""
    wrong = []
    for row in csv.reader(io.StringIO(source, newline="")):
        if len(row) != columns:
            wrong.append(f"a row of {len(row)} cells")
        for cell in row:
            number = re.fullmatch(r"-?\d+(\.\d+)?(e[-+]?\d+)?", cell)
            if cell.startswith(tuple("=+-@\t\r\n\uff1d")) and not number:
                wrong.append(f"a formula {cell[:20]!r}")
    return wrong


def controls(source: str, keep: str = "\n") -> list[str]:
    """Characters that steer a terminal or reorder the text around them."""
    found = {
        char for char in source
        if char not in keep and (unicodedata.category(char) in HIDDEN or char in REORDER)
    }  # fmt: skip
    return [f"the character {char!r}" for char in sorted(found)]
