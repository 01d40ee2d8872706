"""The form in which answers are compared."""

from __future__ import annotations

import importlib
import re
import string
import sys
import unicodedata
from collections.abc import Callable
from functools import cache, reduce

from qa_fast.files.wording import shown

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


def load_normalizer(given: str | Callable[[str], str]) -> Callable[[str], str]:
    """A normalizer of the caller's own, with what it returns checked.

    Args:
        given: a function from text to text; or ``module:function``, where that can be imported.

    Raises:
        ValueError: what is given names or is no such function. What is returned raises one where the
            function fails, or returns something else than a text.

    Example:
        >>> load_normalizer("string:capwords")("ada  lovelace"), load_normalizer(str.upper)("ada")
        ('Ada Lovelace', 'ADA')
    """
    function: object = given
    if isinstance(given, str):
        function = _imported(given)
    if not callable(function):
        raise ValueError(
            f"a normalizer is a function from text to text, or module:function; got {shown(given)}"
        )
    name = given if isinstance(given, str) else name_of(given)

    def normalize(text: str) -> str:
        try:
            form = function(text)
        except Exception as error:
            raise ValueError(
                f"the normalizer {name} fails on {shown(text)}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(form, str):
            raise ValueError(
                f"the normalizer {name} must return a text; got {shown(form)} for {shown(text)}"
            )
        return form

    return normalize


def name_of(normalizer: str | Callable[[str], str]) -> str:
    """What to call a normalizer: as it was given, or ``module:function``."""
    if isinstance(normalizer, str):
        return normalizer
    kind = type(normalizer)
    module = getattr(normalizer, "__module__", None) or kind.__module__
    return f"{module}:{getattr(normalizer, '__qualname__', kind.__qualname__)}"


def _imported(path: str) -> object:
    module, _, names = path.partition(":")
    if not module or not names:
        raise ValueError(
            f"normalizer must be one of {', '.join(NORMALIZERS)}, or module:function; got {path!r}"
        )
    try:
        found: object = importlib.import_module(module)
    except Exception as error:
        raise ValueError(
            f"the normalizer {path}: {module} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    try:
        found = reduce(getattr, names.split("."), found)
    except AttributeError:
        raise ValueError(f"the normalizer {path}: {module} has no {names}") from None
    if not callable(found):
        raise ValueError(f"the normalizer {path} must be a function; got {shown(found)}")
    return found
