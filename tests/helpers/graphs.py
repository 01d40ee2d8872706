"""Folders with tiny ONNX graphs, and texts to try them with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qa_fast.models.conversion.export import Exported, export
from qa_fast.models.conversion.int8 import Row

from .tiny import tiny_model, tokenizer_of, xquad


def rows(tokenizer: Any, most: int = 120, count: int = 12) -> list[Row]:
    """Arguments for single texts, of different lengths."""
    found = []
    for paragraphs in xquad().values():
        for paragraph in paragraphs[:2]:
            question = paragraph["qas"][0]["question"][:20]
            found.append(
                dict(
                    tokenizer(
                        question,
                        paragraph["context"][: 9 * (len(found) % 9 + 3)],
                        truncation=True,
                        max_length=most,
                        return_tensors="np",
                    )
                )
            )
    return found[:count]


def export_tiny(folder: Path, to: Any = "onnx", dtype: Any = "float32") -> Exported:
    """The tiny model as a graph in ``folder``."""
    tokenizer = tokenizer_of("wordpiece")
    return export(
        tiny_model(tokenizer), tokenizer, folder, to=to, dtype=dtype, rows=rows(tokenizer)
    )
