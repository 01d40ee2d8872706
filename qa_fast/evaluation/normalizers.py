"""The form in which answers are compared."""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections.abc import Callable
from functools import cache

NORMALIZERS = ("squad", "mlqa")
LANGUAGES = ("en", "es", "hi", "vi", "de", "ar", "zh")
"""The languages that MLQA's script knows."""
_ARTICLES = {
    "en": r"\b(?:a|an|the)\b",
    "es": r"\b(?:un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(?:của|là|cái|chiếc|những)\b",
    "de": r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    # The script's pattern is "\sال^|ال". The first half can never match, so the article goes
    # wherever the two letters stand, inside words as well.
    "ar": "ال",
}
_SQUAD_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHINESE = re.compile("([\u4e00-\u9fa5])")


def make_normalizer(name: str = "squad", language: str | None = None) -> Callable[[str], str]:
    """The function that brings an answer into the form in which answers are compared.

    Args:
        name: "squad", English and ASCII punctuation only, also what XQuAD's results are reported
            with; or "mlqa", which knows all of Unicode's punctuation, the articles of ``language``,
            and for Chinese makes every character a token.
        language: of the answers; with "mlqa" only, where it is needed: en, es, hi, vi, de, ar, zh.

    Raises:
        ValueError: an unknown name or language, or a language with "squad", which has none.

    Example:
        >>> make_normalizer()("The  U.S. Army!")
        'us army'
        >>> make_normalizer("mlqa", "de")("Das «Haus» am See")
        'haus am see'
        >>> make_normalizer("mlqa", "zh")("308分")
        '308 分'
    """
    if name not in NORMALIZERS:
        raise ValueError(f"normalizer must be one of {', '.join(NORMALIZERS)}; got {name!r}")
    if name == "squad":
        if language is not None:
            raise ValueError(
                f"the normalizer 'squad' knows no languages; got language={language!r}: leave it "
                "out, or choose the normalizer 'mlqa'"
            )
        return _normalizer(_SQUAD_PUNCTUATION, _ARTICLES["en"])
    if language not in LANGUAGES:
        raise ValueError(
            f"the normalizer 'mlqa' needs one of its languages, {', '.join(LANGUAGES)}; got "
            f"language={language!r}"
        )
    return _normalizer(_mlqa_punctuation(), _ARTICLES.get(language), language == "zh")


def _normalizer(
    punctuation: dict[int, int | None], articles: str | None, characters: bool = False
) -> Callable[[str], str]:
    pattern = re.compile(articles or r"(?!)")

    def normalize(text: str) -> str:
        text = pattern.sub(" ", text.lower().translate(punctuation))
        if characters:
            text = _CHINESE.sub(r" \1 ", text)
        return " ".join(text.split())

    return normalize


@cache
def _mlqa_punctuation() -> dict[int, int | None]:
    unicode = (i for i in range(sys.maxunicode) if unicodedata.category(chr(i)).startswith("P"))
    return {**_SQUAD_PUNCTUATION, **dict.fromkeys(unicode)}
