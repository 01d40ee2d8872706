"""Token spans in, answers as text and character offsets out.

Offsets count code points of the context as given: ``context[start:end] == answer``, always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from math import exp, inf
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qa_fast.data.answers import Answer

from .chunks import Chunks, Int64
from .places import Places, TokenSpans, joined, places_of
from .probabilities import shared_scores

if TYPE_CHECKING:
    from qa_fast.decoding.search import Scoring


# So few places are compared at once; of more first those that could have the same text are found.
FEW = 32
# White space by code point; there is none behind these.
_SPACE = np.array([chr(code).isspace() for code in range(0x3002)])
# Of all letters this one alone becomes two when it is made small.
_DOUBLED = "\u0130"


class Reading(NamedTuple):
    """What reading one question's context gave.

    Attributes:
        answers: at most ``top_k`` answers, best first (the n-best list); empty only where the model
            rules out every span.
        null_score: score of "not answerable", the minimum over the question's chunks: a
            probability, or a sum of two logits under ``scoring="logit"``. None where the tokenizer
            adds no [CLS].
        chunks: the parts that the context was read in, at least 1.
        probabilities: of each answer, among all spans of the question: under each scoring what its
            score is under "shared". Of an answer that stands for several spans, the best one's. None
            where they were not asked for.
        null_probability: likewise of "not answerable"; None also where ``null_score`` is.
    """

    answers: list[Answer]
    null_score: float | None
    chunks: int
    probabilities: list[float] | None = None
    null_probability: float | None = None


class Ranked(NamedTuple):
    """The answers of Q questions, A in all, each question's best first; as places, not yet as texts.

    Attributes:
        question: [A] int64 the question of each, ascending.
        start: [A] int64 its first character.
        end: [A] int64 the character after its last; that of the null answer is 0.
        score: [A] float64 its score, as users see it.
        probability: [A] float64; see `Reading`.
        null_scores: Q of them; see `Reading`.
        null_probabilities: likewise.
        chunk_count: [Q] int64 the chunks of each question.
        lacking: the questions with fewer than ``top_k`` answers for white space alone: it made several
            of their spans one or none, and they may have spans that were not looked at.
        hollow: see `Places`.
    """

    question: Int64
    start: Int64
    end: Int64
    score: npt.NDArray[np.float64]
    probability: npt.NDArray[np.float64] | None
    null_scores: list[float | None]
    null_probabilities: list[float | None]
    chunk_count: Int64
    lacking: list[int]
    hollow: set[tuple[int, int]]

    def readings(self, contexts: Sequence[str]) -> list[Reading]:
        """The Q readings, their answers cut from the contexts."""
        answers: list[list[Answer]] = [[] for _ in contexts]
        columns = self.question, self.start, self.end, self.score
        for q, i, j, p in zip(*(column.tolist() for column in columns), strict=True):
            answers[q].append({"score": p, "start": i, "end": j, "answer": contexts[q][i:j]})
        found = map(Reading, answers, self.null_scores, self.chunk_count.tolist())
        if self.probability is None:
            return list(found)
        edges = np.searchsorted(self.question, np.arange(len(contexts) + 1)).tolist()
        probability = self.probability.tolist()
        return [
            Reading(*reading[:3], probability[begin:end], null)
            for reading, begin, end, null in zip(
                found, edges, edges[1:], self.null_probabilities, strict=False
            )
        ]


def rank_answers(
    chunks: Chunks,
    contexts: Sequence[str],
    spans: TokenSpans,
    *,
    scoring: Scoring,
    per_chunk: bool | None = None,
    top_k: int | None,
    align_to_words: bool,
    handle_impossible_answer: bool,
    best: Sequence[npt.NDArray[np.float32]] | None = None,
) -> Ranked:
    """The ``top_k`` best answers of each of Q questions, fewer where there are no more.

    An answer neither begins nor ends with white space, which some tokenizers make part of the token
    behind it; a span of nothing else is none.

    With ``scoring="probability"`` answers with the same text (but for case), wherever they stand,
    become one: the first of them, with the sum of their scores. So did Transformers'
    question-answering pipeline; the sum can exceed 1. With the other scorings the same place in the
    context counts once, with its best score.

    Args:
        chunks: C chunks of Q questions.
        contexts: the Q contexts that the chunks were made from.
        spans: spans of each chunk, or of each question, best first.
        scoring: the one that ``spans`` were decoded with.
        per_chunk: whether the rows of ``spans`` are chunks; None: with "probability" they are.
        top_k: most answers per question; None for all.
        align_to_words: widen answers to whole words, as far as the tokenizer knows words.
        handle_impossible_answer: let the null answer compete, where there is a null position.
        best: what `shared_scores` makes probabilities from; None: they are not wanted.
    """
    merge = scoring == "probability"
    questions = len(contexts)
    per_chunk = merge if per_chunk is None else per_chunk
    row_question = chunks.question_id if per_chunk else np.arange(questions)
    lowest_null = np.full(questions, np.inf)
    # fmin: a question with NaN logits has a NaN score.
    np.fmin.at(lowest_null, row_question, spans.null_score.astype(np.float64))

    places = partial(
        places_of,
        chunks,
        contexts,
        spans,
        row_question,
        # Without merging, a word that a chunk's border cuts in two is still given whole.
        within_chunk=merge,
        align_to_words=align_to_words,
    )
    found = joined(places())
    score = found.score if scoring == "logit" else np.exp(found.score)
    characters = Characters(contexts, chunks.encoding_of)
    shared = None if best is None else shared_scores(spans, row_question, best)
    probability = None if shared is None else shared.of_spans(spans)
    each, trimmed = _best(found, score, probability, characters, merge)
    nulls = [
        None if null == -inf else null if scoring == "logit" else exp(null)
        for null in lowest_null.tolist()
    ]
    sure = [0.0] * questions if shared is None else shared.of_nulls().tolist()
    lacking: list[int] = []
    if trimmed:
        short = trimmed
        if top_k is not None:
            held = np.bincount(each.question, minlength=questions)
            short = {question for question in short if int(held[question]) < top_k}
        # But not where the lists end before their last place.
        short &= set(row_question[spans.chunk[:, -1] >= 0].tolist())
        lacking = _lost_to_space(contexts, short, places, merge) if short else []
    ranked = each.ranked(top_k, nulls if handle_impossible_answer else (), sure)
    count = np.bincount(chunks.question_id, minlength=questions)
    null_probabilities = [None if null is None else p for null, p in zip(nulls, sure, strict=True)]
    return Ranked(*ranked, nulls, null_probabilities, count, lacking, set(found.hollow))


class _Best(NamedTuple):
    """The A answers of Q questions, each once, in the order in which they were found: [A] each."""

    question: Int64
    start: Int64
    end: Int64
    score: npt.NDArray[np.float64]
    probability: npt.NDArray[np.float64] | None

    def ranked(
        self, top_k: int | None, nulls: Sequence[float | None], null_probabilities: Sequence[float]
    ) -> _Best:
        """Of each question the ``top_k`` best, the null answer among them where there is one."""
        question, start, end, score, probability = self
        of = [q for q, null in enumerate(nulls) if null is not None]
        if of:
            none = np.zeros(len(of), np.int64)
            null_score = [null for null in nulls if null is not None]
            question, score = np.append(question, of), np.append(score, null_score)
            start, end = np.append(start, none), np.append(end, none)
            if probability is not None:
                probability = np.append(probability, [null_probabilities[q] for q in of])
        # In ranks, the null answer after spans of the same score.
        order = np.lexsort((-score, question))
        if top_k is not None:
            question_of = question[order]
            rank = np.arange(len(order)) - np.searchsorted(question_of, question_of)
            order = order[rank < min(top_k, len(order))]
        if probability is not None:
            probability = probability[order]
        return _Best(question[order], start[order], end[order], score[order], probability)


def _best(
    places: Places,
    score: npt.NDArray[np.float64],
    probability: npt.NDArray[np.float64] | None,
    characters: Characters,
    merge: bool,
) -> tuple[_Best, set[int]]:
    """The answers that S places stand for, and the questions of those that lost white space.

    Args:
        places: the places, those of each question best first.
        score: [S] their scores as users see them.
        probability: [S] their probabilities, where they are wanted.
        characters: the contexts of all questions.
        merge: see `rank_answers`.
    """
    first, number = _distinct(places.question, places.start, places.end)
    distinct = places.of(first)
    trimmed = _trim(characters, distinct)
    question, start, end = distinct.question, distinct.start, distinct.end
    if merge:
        of = _same_text(characters, distinct)
    elif trimmed:
        those, again = _distinct(question, start, end)
        of = those[again]
    else:
        of = np.arange(len(question))
    is_answer = (of == np.arange(len(of))) & (start < end)  # else of white space, or of nothing
    nth = np.where(start < end, (np.cumsum(is_answer) - 1)[of], -1)[number]
    if trimmed:
        kept = nth >= 0
        nth, score = nth[kept], score[kept]
        probability = None if probability is None else probability[kept]
    answers = np.count_nonzero(is_answer)
    best = _Best(
        question[is_answer],
        start[is_answer],
        end[is_answer],
        np.zeros(answers),
        None if probability is None else np.zeros(answers),
    )
    if best.probability is not None and probability is not None:
        np.fmax.at(best.probability, nth, probability)
    if merge:
        np.add.at(best.score, nth, score)
    else:
        # The first one's: of several values for one element, the last assigned is kept.
        best.score[nth[::-1]] = score[::-1]
        better = score > best.score[nth]  # from another chunk
        for at, value in zip(nth[better].tolist(), score[better].tolist(), strict=True):
            best.score[at] = max(best.score[at], value)
    return best, trimmed


class Characters:
    """The code points of the contexts of Q questions, one distinct context after the other.

    Args:
        contexts: the contexts.
        number: [Q] which ones are the same.

    Attributes:
        contexts: as given.
        ascii: whether all of them are ASCII.
        keeps_length: whether all of their texts are as long in lower case.
    """

    def __init__(self, contexts: Sequence[str], number: Int64) -> None:
        self.contexts = contexts
        first: dict[int, int] = {}
        for question, n in enumerate(number.tolist()):
            first.setdefault(n, question)
        texts = [contexts[question] for question in first.values()]
        text = "".join(texts)
        self.ascii = text.isascii()
        self.keeps_length = self.ascii or _DOUBLED not in text
        self._codes = (
            np.frombuffer(text.encode(), np.uint8)
            if self.ascii
            else np.frombuffer(text.encode("utf-32-le"), np.uint32)
        )
        begin = np.zeros(max(first, default=0) + 1, np.int64)
        begin[list(first)] = [0, *accumulate(map(len, texts))][: len(texts)]
        self._begin = begin[number]

    def at_ends(self, places: Places) -> tuple[Int64, ...]:
        """The code points of the first and of the last character of S places; any for empty ones."""
        last = np.maximum(places.end - 1, 0)
        first = np.minimum(places.start, last)
        begin = self._begin[places.question]
        return tuple(self._codes[begin + place].astype(np.int64) for place in (first, last))


def _distinct(*columns: Int64) -> tuple[Int64, Int64]:
    """The first one of each row, in their order, and for each row its number among them."""
    _, first, number = np.unique(_packed(*columns), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[number]


def _packed(key: Int64, *columns: npt.NDArray[Any]) -> Int64:
    """A number for each row, the same where all of its columns are: they hold no negative number."""
    for column in columns:
        size = int(column.max(initial=0)) + 1
        if (int(key.max(initial=0)) + 1) * size >= 1 << 63:
            key = np.unique(key, return_inverse=True)[1]
        key = key * size + column
    return key


def _trim(characters: Characters, places: Places) -> set[int]:
    """Take white space off the ends of places, in the arrays; the questions of which some had any."""
    contexts = characters.contexts
    question, start, end = places.question, places.start, places.end
    first, last = (_SPACE[np.minimum(code, len(_SPACE) - 1)] for code in characters.at_ends(places))
    at = np.flatnonzero(first | last | (start == end))
    if len(at):
        rows = (column[at].tolist() for column in (question, start, end))
        kept = [_trimmed(contexts[q][i:j], i) for q, i, j in zip(*rows, strict=True)]
        start[at], end[at] = np.array(kept, np.int64).T
    return set(question[at].tolist())


def _same_text(characters: Characters, places: Places) -> Int64:
    """[S]: for each place the first one of its question that has the same text, but for case."""
    question, start, end = places.question, places.start, places.end
    of = at = np.arange(len(question))
    if len(at) > FEW:
        # Texts of different lengths differ, and so do those with different letters at an end.
        columns = []
        if characters.keeps_length:
            columns.append(end - start)
        if characters.ascii:
            columns += [code | 32 for code in characters.at_ends(places)]
        _, group, size = np.unique(
            _packed(question, *columns), return_inverse=True, return_counts=True
        )
        at = np.flatnonzero(size[group] > 1)
        of = of.copy()
    contexts = characters.contexts
    last, known = -1, dict[str, int]()
    rows = (column.tolist() for column in (at, question[at], start[at], end[at]))
    for n, q, i, j in zip(*rows, strict=True):
        if q != last:
            last, known = q, {}
        of[n] = known.setdefault(contexts[q][i:j].lower(), n)
    return of


def _trimmed(text: str, start: int) -> tuple[int, int]:
    """Where ``text``, which starts at ``start``, has characters that are no white space."""
    start += len(text) - len(text.lstrip())
    return start, start + len(text.strip())


def _lost_to_space(
    contexts: Sequence[str],
    questions: set[int],
    places: Callable[[], Iterator[Places]],
    merge: bool,
) -> list[int]:
    """Those of ``questions`` that would have more answers if white space told these apart."""
    given: dict[int, set[tuple[int, int]]] = {q: set() for q in questions}
    for found in places():
        for q, i, j in zip(
            found.question.tolist(), found.start.tolist(), found.end.tolist(), strict=True
        ):
            if q in given:
                given[q].add((i, j))
    lost = []
    for q, mine in sorted(given.items()):
        context = contexts[q]
        kept = {_trimmed(context[i:j], i) for i, j in mine}
        kept = {(i, j) for i, j in kept if i < j}
        if merge:
            before, after = ({context[i:j].lower() for i, j in some} for some in (mine, kept))
            fewer = len(after) < len(before)
        else:
            fewer = len(kept) < len(mine)
        if fewer:
            lost.append(q)
    return lost
