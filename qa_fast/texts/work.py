"""The work on the texts of a window, which can be done in another process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from qa_fast.data.errors import ExampleError

from .chunker import Chunker
from .chunks import Chunks, Int64
from .places import TokenSpans, hollow_note
from .readings import Ranked, rank_answers


class Cut(NamedTuple):
    """What a window's texts became.

    Attributes:
        chunks: the chunks of the pairs that can be used.
        errors: an error for each of the others.
    """

    chunks: Chunks
    errors: list[ExampleError]


class TextWork:
    """A window's texts: cut into chunks when this is made, asked for answers later.

    Args:
        chunker: cuts them.
        questions: questions.
        contexts: as many contexts.
        first_item: the number of the first pair.
        **cutting: as of `Chunker.cut`.

    Attributes:
        cut: the chunks, and errors.

    Example:
        >>> import qa_fast
        >>> chunker = Chunker(qa_fast.pipeline().engine.tokenizer)
        >>> work = TextWork(chunker, ["Who?", "Who?"], ["It was Ada.", ""], 0, max_seq_len=384)
        >>> len(work.cut.chunks), str(work.cut.errors[0])
        (1, 'context 1 is empty; give it some text')
    """

    def __init__(
        self,
        chunker: Chunker,
        questions: Sequence[str],
        contexts: Sequence[str],
        first_item: int,
        **cutting: Any,
    ) -> None:
        chunks, errors = chunker.cut(questions, contexts, first_item=first_item, **cutting)
        wrong = {error.item - first_item for error in errors}
        self.cut = Cut(chunks, errors)
        self._chunker = chunker
        self._contexts = [text for i, text in enumerate(contexts) if i not in wrong]

    def rank(self, questions: Int64, spans: TokenSpans, **asked: Any) -> Ranked:
        """The best answers of some of the questions that have chunks.

        Args:
            questions: their numbers among those, ascending.
            spans: their spans; chunks count from the first one of these questions.
            **asked: as of `rank_answers`.
        """
        chunks, contexts = self.cut.chunks, self._contexts
        if len(questions) < chunks.questions:
            chunks, _ = chunks.of(questions)
            contexts = [contexts[question] for question in questions.tolist()]
        return rank_answers(chunks, contexts, spans, **asked)

    def hollow_note(
        self, questions: Int64, items: Sequence[int], hollow: Iterable[tuple[int, int]]
    ) -> str | None:
        """See `places.hollow_note`; of some of the questions that have chunks."""
        chunks, _ = self.cut.chunks.of(questions)
        return hollow_note(chunks, items, hollow, self._chunker.text_of)

    def forget(self) -> None:
        """Say that no more will be asked; another process then keeps nothing of it."""
