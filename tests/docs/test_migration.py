"""MIGRATION.md: what it shows is run, what it links to is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ..helpers.documents import ROOT, Block, assert_printed, blocks, run_script

MIGRATION = (ROOT / "MIGRATION.md").read_text(encoding="utf-8")


def python_blocks(*, before: bool) -> list[object]:
    """Those of old code, below a paragraph that begins with "Before", or all the others."""
    lines = MIGRATION.splitlines()
    found = []
    for block in blocks(MIGRATION):
        above = "\n".join(lines[: block.line - 1]).rstrip().rpartition("\n\n")[2]
        if block.language == "python" and above.startswith("Before") == before:
            found.append(pytest.param(block, id=f"line-{block.line}"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("block", python_blocks(before=False))
def test_python_block_prints_what_follows_it(block: Block, folder: Path) -> None:
    assert block.output is not None
    assert_printed(run_script(block.code, folder), block.output)


@pytest.mark.parametrize("block", python_blocks(before=True))
def test_old_code_is_python(block: Block) -> None:
    ast.parse(block.code)
    assert block.output is None


def test_every_way_has_a_before_and_an_after() -> None:
    sections = MIGRATION.split("\n## ")[1:]
    assert len(sections) == 4
    for section in sections:
        assert re.search(r"^Before", section, re.MULTILINE)
        assert re.search(r"^After", section, re.MULTILINE)


def test_links_lead_to_headings() -> None:
    headings = re.findall(r"^##+ (.+)$", MIGRATION, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
    links = re.findall(r"\]\(#([^)]+)\)", MIGRATION)
    assert len(links) == 4
    assert set(links) <= anchors
