"""KorQuAD 1.0 and 2.0: F1 over characters, by the suites' own normalizers.

Sources: korquad/korquad.github.io, dataset/evaluate-v1.0.py and dataset/KorQuAD_2.0/evaluate-2.0.py.
Both turn quotation marks, brackets and angle brackets into spaces, then lower the case and drop ASCII
punctuation, so that a bracket parts two words and a hyphen does not. 1.0 compares words for exact match
and the characters of the words for F1. 2.0 first takes the text out of HTML, and in the end leaves no
white space at all.

2.0's script lets Beautiful Soup choose its parser by what is installed; here it is always Python's own,
``html.parser``. A text that it rejects, at which the script would stop, keeps its tags.
"""

from __future__ import annotations

import string
import warnings
from collections.abc import Callable

from qa_fast.evaluation.metrics import Normalize, best_of_golds, characters_f1, totals_of_squad1

from .suite import Suite, remembered

_TO_SPACES = str.maketrans(dict.fromkeys("'\"《》<>〈〉()‘’", " "))
_DROPPED = str.maketrans("", "", string.punctuation)


def korquad1(normalize: Normalize) -> Suite:
    """KorQuAD 1.0."""
    return _suite(
        "korquad1", "KorQuAD 1.0", "korquad/korquad.github.io dataset/evaluate-v1.0.py", normalize
    )


def korquad2(normalize: Normalize) -> Suite:
    """KorQuAD 2.0."""
    path = "dataset/KorQuAD_2.0/evaluate-2.0.py"
    return _suite("korquad2", "KorQuAD 2.0", f"korquad/korquad.github.io {path}", normalize)


def _suite(name: str, title: str, source: str, normalize: Normalize) -> Suite:
    @remembered
    def characters(form: str) -> str:
        return "".join(form.split())

    return Suite(
        name=name,
        title=title,
        source=source,
        score=best_of_golds(
            normalize, lambda mine, theirs: characters_f1(characters(mine), characters(theirs))
        ),
        tokens=lambda text: characters(normalize(text)),
        totals=totals_of_squad1,
    )


def normalize_korquad1(text: str) -> str:
    """The form in which KorQuAD 1.0 compares answers.

    Example:
        >>> normalize_korquad1("《훈민정음》(Hunminjeongeum), 1446-년")
        '훈민정음 hunminjeongeum 1446년'
    """
    return " ".join(text.translate(_TO_SPACES).lower().translate(_DROPPED).split())


def make_korquad2_normalizer() -> Normalize:
    """The function that gives the form in which KorQuAD 2.0 compares answers.

    Raises:
        ImportError: Beautiful Soup is not installed.

    Example:
        >>> make_korquad2_normalizer()("<td>서울 <b>특별시</b></td> &amp; 3.5%")
        '서울특별시35'
    """
    text_of = _text_of_html()

    def normalize(text: str) -> str:
        # Without either character the parser has nothing to find.
        if "<" in text or "&" in text:
            text = text_of(text)
        return "".join(text.translate(_TO_SPACES).lower().translate(_DROPPED).split())

    return normalize


def _text_of_html() -> Callable[[str], str]:
    try:
        from bs4 import BeautifulSoup
        from bs4.exceptions import ParserRejectedMarkup
    except ImportError as error:
        raise ImportError(
            "the suite korquad2 takes the text out of HTML with Beautiful Soup: "
            "pip install 'qa-fast[suites]'"
        ) from error

    def text_of(html: str) -> str:
        with warnings.catch_warnings():
            # That a text looks like a file's name, or like XML, is no matter here.
            warnings.simplefilter("ignore")
            try:
                return BeautifulSoup(html, "html.parser").get_text()
            except (ParserRejectedMarkup, UnicodeEncodeError):
                return html

    return text_of
