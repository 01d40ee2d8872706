"""RELIABILITY.md names a test for every promise: they are there, and links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "RELIABILITY.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", PAGE)


def test_tests_are_named() -> None:
    assert len(NAMED) > 60


@pytest.mark.parametrize(("file", "test"), NAMED, ids=["::".join(name) for name in NAMED])
def test_a_named_test_is_there(file: str, test: str) -> None:
    source = (ROOT / "tests" / file).read_text(encoding="utf-8")
    assert f"\ndef {test}(" in source or not test


def test_every_promise_names_a_test() -> None:
    tables = [part.strip().splitlines() for part in PAGE.split("\n\n")]
    promises = [row for table in tables if table[0] == "| promise | test |" for row in table[2:]]
    assert len(promises) > 40
    for row in promises:
        assert re.search(r"\.py::|fuzz/", row), row


@pytest.mark.parametrize("page", ["RELIABILITY.md", "SECURITY.md"])
def test_links_lead_to_files_and_headings(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        file, _, heading = link.partition("#")
        linked = (ROOT / file).read_text(encoding="utf-8")
        assert not heading or f"\n## {heading.capitalize()}\n" in linked
