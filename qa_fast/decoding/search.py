"""`SpanSearch`: the arguments of `decode_spans`, checked, as one value that every backend takes."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from .reach import longest_row, most_chunks
from .tensors import INT32_MAX, check_logits, check_mask, integers, is_capturing, moved

Scoring = Literal["probability", "shared", "logit"]
_SCORINGS = get_args(Scoring)
# A max_answer_len that no chunk reaches; much more does not fit into a kernel's int32.
_NO_LIMIT = 1 << 30

# What a backend finds: the fields of `qa_fast.decoding.spans.Spans` in their order.
Found: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class SpanSearch(NamedTuple):
    """The spans of Q questions that are wanted of the logits of C chunks: what every backend is given.

    [`qa_fast.decode_spans`][] says what the arguments mean. Here they are checked, and all tensors are
    on the logits' device. Only the numbers in ``context``, ``row_offset`` and a tensor of null
    positions are yet to be compared with the rows: on a CPU the backend does that.

    The PyTorch operator takes the attributes in this order; context and null position must be tensors
    then.

    Attributes:
        start_logits: [C, N] float16, bfloat16 or float32; with ``row_offset`` flat, [T].
        end_logits: of the same shape and dtype.
        context: [C, 2] int32, contiguous: half-open ranges of tokens; None: the whole rows of [C, N].
        context_mask: bool of the logits' shape; None: nothing is taken out.
        row_offset: [C] int64, contiguous: where the rows begin in flat logits; None: with [C, N].
        question_id: [C] int32, contiguous, non-decreasing; None: every chunk is a question, Q = C.
        context_offset: [C] int32, contiguous; None: no span is known to be another chunk's too, or it
            counts again there.
        null_position: [C] int32, contiguous, or an int for all chunks; -1 for none.
        num_questions: Q.
        top_k: spans per question, at least 1.
        max_answer_len: most tokens in a span, from 1 to 2^30 - 1; None for no limit.
        scoring: "probability", "shared" or "logit".
        null_in_spans: the null position may start or end a span.
        max_seq_len: no row has more tokens; for the kernels, 0 on a CPU.
        max_chunks: no question has more chunks; for the kernels, 0 on a CPU.
    """

    start_logits: Tensor
    end_logits: Tensor
    context: Tensor | None
    context_mask: Tensor | None
    row_offset: Tensor | None
    question_id: Tensor | None
    context_offset: Tensor | None
    null_position: Tensor | int
    num_questions: int
    top_k: int
    max_answer_len: int | None
    scoring: str
    null_in_spans: bool
    max_seq_len: int
    max_chunks: int

    @property
    def n_chunks(self) -> int:
        """C, the number of chunks."""
        return (self.start_logits if self.row_offset is None else self.row_offset).shape[0]

    def places(self) -> tuple[Tensor, Tensor]:
        """Contexts [C, 2] and null positions [C], contiguous int32; nothing is copied to a GPU."""
        context, null, device = self.context, self.null_position, self.start_logits.device
        if context is None:
            ends = torch.arange(2, dtype=torch.int32, device=device) * self.start_logits.shape[1]
            context = ends.expand(self.n_chunks, 2).contiguous()
        if isinstance(null, int):
            null = torch.full((self.n_chunks,), null, dtype=torch.int32, device=device)
        return context, null

    def as_tensors(self) -> SpanSearch:
        """The same, with contexts and null positions that are tensors."""
        context, null_position = self.places()
        # Spelled out, since the oldest PyTorch cannot trace _replace.
        return SpanSearch(
            self.start_logits, self.end_logits, context, self.context_mask, self.row_offset,
            self.question_id, self.context_offset, null_position, self.num_questions, self.top_k,
            self.max_answer_len, self.scoring, self.null_in_spans, self.max_seq_len, self.max_chunks,
        )  # fmt: skip

    def contiguous(self) -> SpanSearch:
        """The same, with logits and mask that are contiguous: copies of those that are not."""
        start, end, mask = self.start_logits, self.end_logits, self.context_mask
        in_order = start.is_contiguous() and end.is_contiguous()
        if in_order and (mask is None or mask.is_contiguous()):
            return self
        return self._replace(
            start_logits=start.contiguous(),
            end_logits=end.contiguous(),
            context_mask=None if mask is None else mask.contiguous(),
        )


def checked_search(
    start_logits: Tensor,
    end_logits: Tensor,
    context: Tensor | None,
    question_id: Tensor | None,
    *,
    top_k: int,
    max_answer_len: int | None,
    scoring: Scoring,
    distinct: bool,
    context_offset: Tensor | None,
    null_position: int | Tensor,
    null_in_spans: bool,
    context_mask: Tensor | None,
    row_offset: Tensor | None,
    num_questions: int | None,
    max_seq_len: int | None,
) -> SpanSearch:
    """The search that the arguments of [`qa_fast.decode_spans`][] ask for.

    What is the same for all chunks, the whole row as context or an integer as null position, stays so.

    Raises:
        ValueError: a shape, a range or a value that does not fit; the message says which and why.
        TypeError: a dtype that is not supported.
    """
    check_options(
        top_k, max_answer_len, scoring, num_questions, max_seq_len, distinct, null_in_spans
    )
    check_logits(start_logits, end_logits, row_offset)
    if max_answer_len is not None and max_answer_len >= _NO_LIMIT:
        max_answer_len = None
    device = start_logits.device
    if row_offset is None:
        chunks = start_logits.shape[0]
    else:
        row_offset = integers("row_offset", row_offset, None, device)
        chunks = row_offset.shape[0]
        if context is None:
            raise ValueError("flat logits with row_offset need context: [C, 2] token ranges")
    if context is not None:
        context = integers("context", context, (chunks, 2), device)
    if isinstance(null_position, int):
        _check_null_position(null_position, start_logits, chunks)
    else:
        null_position = integers("null_position", null_position, (chunks,), device)
    if context_offset is not None:
        context_offset = integers("context_offset", context_offset, (chunks,), device)
    if context_mask is not None:
        check_mask(context_mask, start_logits)
    if question_id is not None:
        question_id = integers("question_id", question_id, (chunks,), device)
    questions = _count_questions(question_id, chunks, num_questions)
    longest = most = 0
    if chunks and not start_logits.is_cpu:
        longest = longest_row(start_logits, context, null_position, max_seq_len)
        most = most_chunks(question_id, num_questions)
    if context is not None:
        context = moved("context", context, device)
    if not isinstance(null_position, int):
        null_position = moved("null_position", null_position, device)
    if row_offset is not None:
        row_offset = moved("row_offset", row_offset, device, torch.int64)
    if question_id is not None:
        question_id = moved("question_id", question_id, device)
    if not distinct:
        context_offset = None
    if context_offset is not None:
        context_offset = moved("context_offset", context_offset, device)
    return SpanSearch(
        start_logits, end_logits, context, context_mask, row_offset, question_id, context_offset,
        null_position, questions, top_k, max_answer_len, scoring, null_in_spans, longest, most,
    )  # fmt: skip


def check_options(
    top_k: int,
    max_answer_len: int | None,
    scoring: str,
    num_questions: int | None,
    max_seq_len: int | None,
    distinct: bool,
    null_in_spans: bool,
) -> None:
    """Arguments of [`qa_fast.decode_spans`][] that are no tensors, each by itself.

    Raises:
        ValueError: one that is not what it must be.
    """
    if top_k is None:
        raise ValueError("top_k must be an integer of at least 1; got None")
    check_count("top_k", top_k, 1, INT32_MAX)
    check_count("max_answer_len", max_answer_len, 1)
    check_count("num_questions", num_questions, 0, INT32_MAX)
    check_count("max_seq_len", max_seq_len, 0, INT32_MAX)
    for name, flag in (("distinct", distinct), ("null_in_spans", null_in_spans)):
        if not isinstance(flag, bool):
            raise ValueError(f"{name} must be True or False; got {flag!r}")
    if scoring not in _SCORINGS:
        raise ValueError(
            f"scoring must be one of {', '.join(map(repr, _SCORINGS))}; got {scoring!r}"
        )


def check_count(name: str, value: int | None, least: int, most: int | None = None) -> None:
    """None, or an integer from ``least`` to ``most``.

    Raises:
        ValueError: anything else; the message has the argument's ``name``.
    """
    if value is None:
        return
    if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most}; got {value}")


def _check_null_position(null_position: int, logits: Tensor, chunks: int) -> None:
    if not -1 <= null_position <= INT32_MAX:
        raise ValueError(
            f"null_position must be inside its row, or -1 for none; got {null_position}"
        )
    if logits.ndim == 2 and chunks and null_position >= logits.shape[1]:
        raise ValueError(
            f"null_position must be inside its row, or -1 for none; got {null_position} for chunk 0, "
            f"whose row has room for {logits.shape[1]} tokens"
        )


def _count_questions(question_id: Tensor | None, chunks: int, num_questions: int | None) -> int:
    """Q, after a look at the ids where that costs no synchronization (or one is needed anyway)."""
    if question_id is None:
        if num_questions is None or num_questions == chunks:
            return chunks
        raise ValueError(
            f"num_questions is {num_questions}, but without question_id each of the {chunks} "
            "chunks is a question of its own"
        )
    if num_questions is not None and (torch.compiler.is_compiling() or not question_id.is_cpu):
        return num_questions
    if num_questions is None and torch.compiler.is_compiling():
        raise ValueError(
            "num_questions must be given with question_id under torch.compile: the number of questions "
            "is part of the results' shape, which cannot depend on values there"
        )
    if chunks == 0:
        return num_questions or 0
    if not question_id.is_cpu and is_capturing(question_id.device):
        raise ValueError("num_questions must be given with question_id in a CUDA graph")
    falls = (question_id[1:] < question_id[:-1]).nonzero()
    if falls.numel():
        at = int(falls[0]) + 1
        raise ValueError(
            "question_id must not decrease: the chunks of a question follow each other; got "
            f"{int(question_id[at])} after {int(question_id[at - 1])} at chunk {at}"
        )
    first, last = int(question_id[0]), int(question_id[-1])
    if first < 0 or last >= (INT32_MAX if num_questions is None else num_questions):
        raise ValueError(
            f"question_id must be from 0 to num_questions - 1; got {first} to {last} "
            f"with num_questions {num_questions}"
        )
    return last + 1 if num_questions is None else num_questions
