"""Whether another suite would fit the data: said only where their shape leaves no doubt."""

from __future__ import annotations

import re

from qa_fast.data.examples import Example

from . import cuad, tydiqa

_HANGUL = re.compile("[\uac00-\ud7a3]")
_KOREAN = ("korquad1", "korquad2")


class Fitting:
    """Looks at questions one by one, to tell which suite fits them.

    Example:
        >>> fitting = Fitting()
        >>> fitting.add(Example("korean-1-0", "Who?", "It was Ada.", ("Ada",)))
        >>> fitting.better_than("squad2")
        "all ids begin with a language of TyDi QA: its suite is 'tydiqa'"
    """

    def __init__(self) -> None:
        self._all_cuad = self._all_tydi = True
        self._golds = self._korean = 0

    def add(self, example: Example) -> None:
        """Take a question into account."""
        if self._all_cuad:
            self._all_cuad = example.question.startswith(cuad.QUESTION)
        if self._all_tydi:
            self._all_tydi = tydiqa.language_of(example.id) is not None
        if example.answers:
            self._golds += 1
            first = example.answers[0]
            self._korean += not first.isascii() and _HANGUL.search(first) is not None

    def better_than(self, name: str) -> str | None:
        """A sentence that says which suite fits better than ``name``; None where none is sure to."""
        if name != "cuad" and self._all_cuad:
            return "all questions are of the form that CUAD's have: its suite is 'cuad'"
        if name == "tydiqa":
            return None
        if self._all_tydi:
            return "all ids begin with a language of TyDi QA: its suite is 'tydiqa'"
        if name not in _KOREAN and 2 * self._korean > self._golds:
            return (
                "most gold answers are in Korean, which the suites 'korquad1' and 'korquad2' compare by "
                "characters, not by words"
            )
        return None
