"""Names come from data and may be hostile: as text in Markdown, LaTeX and sheets, and no more."""

from __future__ import annotations

import re

# What a spreadsheet runs (CWE-1236), the wide forms included that some take for the narrow ones.
FORMULA = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"

_MD = {char: "\\" + char for char in "\\`*_[]{}#|~$"}
_MD |= {"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "&#64;", "!": "\\!"}
_TEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\char34{}",
    "'": r"\char39{}", "`": r"\char96{}", "[": "{[}", "]": "{]}", "*": "{*}",
    "-": "{-}", "?": "{?}", "!": "{!}", "\u2212": "$-$", "\u2013": "--", "Δ": r"$\Delta$",
    "ρ": r"$\rho$", "κ": r"$\kappa$", "²": r"\textsuperscript{2}", "µ": r"$\mu$",
    "★": r"$\star$", "▲": r"$\blacktriangle$", "▼": r"$\blacktriangledown$", "…": r"\dots{}",
    "≈": r"$\approx$", "×": r"$\times$",
}  # fmt: skip
_TEX |= {char: "\\" + char for char in "&%$#_{}"}


def markdown(text: str) -> str:
    r"""Text that Markdown shows as it is: no markup, no HTML, no links, no mentions.

    >>> markdown("<b>*a*</b> @all")
    '&lt;b&gt;\\*a\\*&lt;/b&gt; &#64;all'
    """
    plain = "".join(_MD.get(char, char) for char in " ".join(text.split()))
    return plain.replace("://", "&#58;//").replace("www.", "www&#46;")


def paragraph(text: str) -> str:
    r"""The same at the start of a line, where it could begin a list or underline a heading.

    >>> paragraph("1. first"), paragraph("- first")
    ('1\\. first', '&#45; first')
    """
    plain = re.sub(r"^(\d+)([.)])", r"\1\\\2", markdown(text))
    return f"&#{ord(plain[0])};{plain[1:]}" if plain.startswith(("+", "-", "=")) else plain


def latex(text: str) -> str:
    r"""Text that LaTeX sets as it is: no command, no mathematics, no break of a table.

    >>> latex("50 % of a_b")
    '50 \\% of a\\_b'
    """
    return "".join(_TEX.get(char, char) for char in " ".join(text.split()))


def cell(text: str) -> str:
    """A text cell that no spreadsheet runs.

    >>> cell("=1+1"), cell("plain")
    ("'=1+1", 'plain')
    """
    plain = text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
    return "'" + plain if plain.startswith(tuple(FORMULA)) else plain
