"""CONTRIBUTING.md: what it names is there, and its commands are those of the checks."""

from __future__ import annotations

import re

import pytest

from ..helpers.documents import ROOT, SET_UP, blocks

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
# A name with a slash or an ending, in backticks.
PATHS = sorted(set(re.findall(r"`([\w.-]*(?:/[\w.-]*)+|[\w-]+\.(?:py|c))`", PAGE)))


def test_paths_are_named() -> None:
    assert len(PATHS) > 25


@pytest.mark.parametrize("path", PATHS)
def test_a_named_path_is_there(path: str) -> None:
    """From the root, in the package, or in a room that is named beside it."""
    places = [ROOT, ROOT / "qa_fast", *(ROOT / "qa_fast").iterdir()]
    assert any((place / path).exists() for place in places if place.is_dir())


def test_commands_are_set_up() -> None:
    commands = [
        command.strip()
        for block in blocks(PAGE)
        if block.language == "sh"
        for line in block.code.splitlines()
        for command in line.split("&&")
    ]
    assert commands
    for command in commands:
        assert any(pattern.fullmatch(command) for pattern in SET_UP), command
