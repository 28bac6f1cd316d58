"""The report of a study: a page to look at, and the same tables for text, papers and sheets."""

from plait.comparing.report.page import html
from plait.comparing.report.text import csv, latex, markdown
from plait.comparing.report.writing import FORMATS, write

__all__ = ["FORMATS", "csv", "html", "latex", "markdown", "write"]
