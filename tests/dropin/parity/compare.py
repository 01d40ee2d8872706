"""Two lists of answers side by side: equal, different as MIGRATION.md lists it, or unexplained."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

SCORE = 1e-5  # how far equal scores may be apart
TIE = 1e-4  # relative: scores of one pipeline this near can change places in the other

# Below, float32 holds no number of full precision: the removed pipeline's products underflow.
TINY = 2.0**-126

# How the tokenizer crashed under the removed pipeline where a question left no room for its context.
CRASHES = ("Truncation error", "`stride` must be strictly less")

# The listed differences a comparison of answers can show.
FILLERS = "fillers of score 0, and scores that underflow float32"
TIES = "the order of equal scores"
WHITE_SPACE = "white space at an end of an answer"
NULL_POSITION = "[CLS] elsewhere than first, and question tokens with left padding"
TOO_LONG = "a question too long"


@dataclass
class Report:
    """What a comparison found, per kind of verdict."""

    equal: int = 0
    largest_score_difference: float = 0.0
    differences: Counter[str] = field(default_factory=Counter)
    unexplained: list[dict[str, Any]] = field(default_factory=list)

    def add(self, case: Any, ours: Any, theirs: Any, mended: dict[str, Any]) -> None:
        """``mended``: what the removed pipeline gives without a listed difference, by its name."""
        verdict, difference = verdict_on(ours, theirs)
        for name, answers in mended.items():
            if verdict is None:
                verdict, difference = verdict_on(ours, answers)
                verdict = verdict and name
        self.largest_score_difference = max(self.largest_score_difference, difference)
        if verdict == "equal":
            self.equal += 1
        elif verdict is not None:
            self.differences[verdict] += 1
        else:
            self.unexplained.append({"case": case, "ours": ours, "theirs": theirs})

    def include(self, other: Report) -> None:
        self.equal += other.equal
        self.differences += other.differences
        self.unexplained += other.unexplained
        self.largest_score_difference = max(
            self.largest_score_difference, other.largest_score_difference
        )

    @property
    def compared(self) -> int:
        return self.equal + sum(self.differences.values()) + len(self.unexplained)

    def summary(self) -> dict[str, Any]:
        return {
            "compared": self.compared,
            "equal": self.equal,
            "largest_score_difference": self.largest_score_difference,
            "differences": dict(self.differences),
            "unexplained": len(self.unexplained),
        }


def verdict_on(ours: Any, theirs: Any) -> tuple[str | None, float]:
    """ "equal", a listed difference or None, and the largest difference of scores of equal answers.

    Args:
        ours: {"answers": [...]} or {"error": "Type: message"}.
        theirs: the same of the removed pipeline.
    """
    if "error" in ours or "error" in theirs:
        both = "error" in ours and "error" in theirs
        named = both and ours["error"].startswith("ExampleError: question 0 is too long")
        crashed = any(text in theirs.get("error", "") for text in CRASHES)
        return (TOO_LONG if named and crashed else None), 0.0
    mine, others = ours["answers"], theirs["answers"]
    if (difference := _difference(mine, others)) is not None:
        return "equal", difference
    if _tied(mine, others):
        return TIES, 0.0
    mine, others = ([a for a in answers if a["score"] >= TINY] for answers in (mine, others))
    if (difference := _difference(mine, others)) is not None:
        return FILLERS, difference
    return (FILLERS if _tied(mine, others) else None), 0.0


def _difference(mine: list[Any], others: list[Any]) -> float | None:
    """The largest difference of scores if the answers are the same ones in the same order."""
    if [_place(a) for a in mine] != [_place(a) for a in others]:
        return None
    gaps = [abs(a["score"] - b["score"]) for a, b in zip(mine, others, strict=True)]
    largest = max(gaps, default=0.0)
    return largest if largest <= SCORE else None


def _tied(mine: list[Any], others: list[Any]) -> bool:
    """Whether the lists differ only in which of equal scores comes first, or is the last to count."""
    if len(mine) != len(others):
        return False
    scores = [a["score"] for a in mine]
    near = [
        abs(a["score"] - b["score"]) <= TIE * a["score"] for a, b in zip(mine, others, strict=True)
    ]
    swapped = [r for r in range(len(mine)) if _place(mine[r]) != _place(others[r])]
    last = len(mine) - 1
    return all(near) and all(
        r == last or any(s != r and abs(scores[r] - scores[s]) <= TIE * scores[r] for s in swapped)
        for r in swapped
    )


def _place(answer: dict[str, Any]) -> tuple[int, int, str]:
    return answer["start"], answer["end"], answer["answer"]
