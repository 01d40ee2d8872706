"""The calls that both pipelines answer: questions, contexts and a grid of arguments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from ...helpers.tiny import DATA, xquad


class Case(NamedTuple):
    set: str
    model: str
    question: str
    context: str
    args: dict[str, Any]


# Cycled through by the questions of a set. The short chunks make many of most contexts.
GRID: list[dict[str, Any]] = [
    {},
    {"top_k": 3},
    {"top_k": 5, "handle_impossible_answer": True},
    {"align_to_words": False},
    {"top_k": 4, "align_to_words": False, "max_answer_len": 5},
    {"max_seq_len": 128, "doc_stride": 32},
    {"max_seq_len": 96, "doc_stride": 16, "top_k": 3, "handle_impossible_answer": True},
    {"top_k": 2, "max_answer_len": 30},
    {"max_answer_len": 1, "top_k": 3},
    {"max_seq_len": 160, "doc_stride": 0, "top_k": 2, "align_to_words": False},
    {"top_k": 20, "max_answer_len": 30},
    {"handle_impossible_answer": True, "padding": "max_length"},
    {"max_seq_len": 200, "doc_stride": 100, "top_k": 6, "max_answer_len": 50},
]
# Two chunks and more for the random models, whose texts are short.
TINY_GRID: list[dict[str, Any]] = [
    {"max_seq_len": 200, "doc_stride": 32, "top_k": 3},
    {"top_k": 5, "handle_impossible_answer": True, "max_seq_len": 400},
    {"align_to_words": False, "top_k": 3, "max_seq_len": 300, "doc_stride": 64},
]


def sample_cases() -> Iterator[Case]:
    """SQuAD 2.0, XQuAD and a long document, from the tests' data."""
    squad = list(squad_questions(DATA / "squad2_sample.json"))
    yield from with_grid("squad2", squad)
    for language, paragraphs in xquad().items():
        pairs = [(qa["question"], p["context"]) for p in paragraphs for qa in p["qas"]]
        yield from with_grid(f"xquad_{language}", pairs[::4])
    whole = "\n\n".join(dict.fromkeys(context for _, context in squad))
    yield from with_grid("long", [(question, whole) for question, _ in squad[::17]])
    yield from list(golden_questions(DATA / "golden.jsonl"))[::3]


def folder_cases(folder: Path, step: int = 1) -> Iterator[Case]:
    """A folder's SQuAD-format JSON, each ``step``-th question of it, and golden JSON Lines, whole."""
    for path in sorted(folder.rglob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and "data" in data:
            yield from with_grid(path.stem, list(squad_questions(path))[::step])
            documents = ["\n\n".join(p["context"] for p in a["paragraphs"]) for a in data["data"]]
            asked = [a["paragraphs"][0]["qas"][0]["question"] for a in data["data"]]
            pairs = list(zip(asked, documents, strict=True))
            yield from with_grid(f"{path.stem}_long", pairs[::step])
    for path in sorted(folder.rglob("*.jsonl")):
        yield from golden_questions(path)


def squad_questions(path: Path) -> Iterator[tuple[str, str]]:
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                yield qa["question"], paragraph["context"]


def golden_questions(path: Path) -> Iterator[Case]:
    for line in path.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        yield Case("golden", "bundled", case["question"], case["context"], case["args"])


def with_grid(name: str, pairs: list[tuple[str, str]]) -> Iterator[Case]:
    """Each pair with the next line of the grid."""
    for (question, context), args in zip(pairs, cycle(GRID), strict=False):
        yield Case(name, "bundled", question, context, args)


def tiny_cases(family: str) -> Iterator[Case]:
    """A few questions in four scripts for a random model with a tokenizer of ``family``."""
    grid = cycle(TINY_GRID)
    for paragraphs in xquad().values():
        for paragraph in paragraphs[:2]:
            for qa in paragraph["qas"][:4]:
                # Short, because some of these tokenizers have a token for a byte or two.
                context = paragraph["context"][:120]
                yield Case(f"tiny_{family}", family, qa["question"], context, next(grid))
