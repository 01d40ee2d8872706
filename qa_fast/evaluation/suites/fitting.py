"""Whether another suite would fit the data: said only where their shape leaves no doubt."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qa_fast.data.examples import Example

from . import cuad, tydiqa

_HANGUL = re.compile("[\uac00-\ud7a3]")
_KOREAN = ("korquad1", "korquad2")


def better_suite(name: str, examples: Sequence[Example]) -> str | None:
    """A sentence that says which suite fits better than the suite ``name``; None where none is sure to.

    Example:
        >>> better_suite("squad2", [Example("korean-1-0", "Who?", "It was Ada.", ("Ada",))])
        "all ids begin with a language of TyDi QA: its suite is 'tydiqa'"
    """
    if name != "cuad" and all(e.question.startswith(cuad.QUESTION) for e in examples):
        return "all questions are of the form that CUAD's have: its suite is 'cuad'"
    if name == "tydiqa":
        return None
    if all(tydiqa.language_of(example.id) for example in examples):
        return "all ids begin with a language of TyDi QA: its suite is 'tydiqa'"
    if name not in _KOREAN:
        # The first gold answers, of questions that have one.
        golds = [example.answers[0] for example in examples if example.answers]
        if golds and 2 * sum(bool(_HANGUL.search(gold)) for gold in golds) > len(golds):
            return (
                "most gold answers are in Korean, which the suites 'korquad1' and 'korquad2' compare by "
                "characters, not by words"
            )
    return None
