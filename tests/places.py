"""Folders of the checkout that tests read and that pages are written to."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent
DATA = TESTS / "data"
"""Golden data, and the texts and files that tests read."""
REPOSITORY = TESTS.parent
DOCS = REPOSITORY / "docs"
EXAMPLES = REPOSITORY / "examples"
