"""CMRC 2018 and DRCD: mixed segmentation, the longest common run of segments, and their average.

Sources: ymcui/cmrc2018, squad-style-data/cmrc2018_evaluate.py; for DRCD the same script goes by the
name cmrc2018_drcd_evaluate.py (ymcui/Chinese-ELECTRA). Both lower the case, strip white space at the
ends and drop the characters of `_DROPPED`, which are not all of Chinese punctuation. Exact match
compares what is left. F1 is over segments: each Chinese character is one, and what stands between them
is split by NLTK's word tokenizer; what is shared is the longest run of segments that stands in both
answers. A question without a prediction counts as 0 and under SKIP. Cui et al. 2019.

The script has NLTK split the text between Chinese characters into sentences first, for which it needs a
model to be downloaded. Here it is one line (``preserve_line=True``); only where several sentences of
another script stand in one answer can that make a difference, at the full stops inside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from qa_fast.evaluation.metrics import Figure, Scored, harmonic_mean, mean_in_percent

from .suite import Suite, remembered

# The script also lists "……", which is two characters and so never met.
_DROPPED = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CHINESE = re.compile("([\u4e00-\u9fa5])")


def cmrc2018() -> Suite:
    """CMRC 2018."""
    path = "squad-style-data/cmrc2018_evaluate.py"
    return _suite("cmrc2018", "CMRC 2018", f"ymcui/cmrc2018 {path}")


def drcd() -> Suite:
    """DRCD."""
    return _suite("drcd", "DRCD", "ymcui/Chinese-ELECTRA cmrc2018_drcd_evaluate.py")


def _suite(name: str, title: str, source: str) -> Suite:
    segments = make_segmenter(name)
    bare = remembered(without_punctuation)

    def score(prediction: str | None, golds: Sequence[str]) -> tuple[float, float]:
        if prediction is None:
            return 0, 0
        exact = int(bare(prediction) in [bare(gold) for gold in golds])
        mine = segments(prediction)
        return exact, max(segments_f1(mine, theirs) for theirs in map(segments, golds))

    return Suite(
        name=name, title=title, source=source, score=score, tokens=segments, totals=_totals
    )


def without_punctuation(text: str) -> str:
    """The form in which exact match compares.

    Example:
        >>> without_punctuation(" 《Python-语言》…")
        'python语言…'
    """
    return text.lower().strip().translate(_DROPPED)


def make_segmenter(suite: str) -> Callable[[str], tuple[str, ...]]:
    """The function from a text to the segments that F1 compares.

    Args:
        suite: what needs it, for the error.

    Raises:
        ImportError: NLTK is not installed.

    Example:
        >>> make_segmenter("cmrc2018")("他在NFL打了3.5年。")
        ('他', '在', 'nfl', '打', '了', '3.5', '年')
    """
    try:
        from nltk.tokenize import NLTKWordTokenizer
    except ImportError as error:
        raise ImportError(
            f"the suite {suite} splits words with NLTK: pip install 'qa-fast[suites]'"
        ) from error
    words = remembered(NLTKWordTokenizer().tokenize)

    @remembered
    def segments(text: str) -> tuple[str, ...]:
        found: list[str] = []
        # Every other part is a Chinese character.
        for i, part in enumerate(_CHINESE.split(without_punctuation(text))):
            if i % 2:
                found.append(part)
            elif part:
                found += words(part)
        return tuple(found)

    return segments


def segments_f1(mine: Sequence[str], theirs: Sequence[str]) -> float:
    """F1 by the longest run of segments that stands in both.

    Example:
        >>> segments_f1(["三", "月", "五", "日"], ["三", "月", "六", "日"])
        0.5
    """
    if mine == theirs:
        return 1.0 if mine else 0
    return harmonic_mean(longest_common_run(mine, theirs), len(mine), len(theirs))


def longest_common_run(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest run of segments that stands in both."""
    # As texts of one character a segment, in which Python finds a run fast.
    number: dict[str, str] = {}
    one, other = (
        "".join([number.setdefault(segment, chr(len(number))) for segment in segments])
        for segments in ((a, b) if len(a) <= len(b) else (b, a))
    )
    longest = 0
    for end in range(1, len(one) + 1):
        # A run that ends here and is longer than the longest one yet.
        while longest < end and one[end - longest - 1 : end] in other:
            longest += 1
    return longest


def _totals(scored: Scored) -> dict[str, Figure]:
    exact, f1 = (mean_in_percent(values) for values in scored.scores)
    both = [(e + f) * 0.5 for e, f in zip(*scored.scores, strict=True)]
    return {
        "AVERAGE": Figure((exact.value + f1.value) * 0.5, (both,)),
        "F1": f1,
        "EM": exact,
        "TOTAL": Figure(len(scored.ids)),
        "SKIP": Figure(scored.predicted.count(False)),
    }
