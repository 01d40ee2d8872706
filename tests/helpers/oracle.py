"""The whole pipeline, one question and one chunk at a time, in the plainest Python."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from qa_fast.decoding import reference
from qa_fast.engine import Options
from qa_fast.engine.candidates import DEEPEST, candidate_count
from qa_fast.texts.chunker import make_chunks
from qa_fast.texts.chunks import Chunks


class Found(NamedTuple):
    """An answer's score, and its probability among all spans of the question."""

    score: float
    probability: float


def answers(
    model: Any, tokenizer: Any, question: str, context: str, options: Options
) -> dict[Any, float]:
    """The scores of what `read` finds."""
    found = read(model, tokenizer, question, context, options)
    return {key: answer.score for key, answer in found.items()}


def read(
    model: Any, tokenizer: Any, question: str, context: str, options: Options
) -> dict[Any, Found]:
    """Every answer that `Engine.read` may give; more than it gives.

    Keyed by the text in lower case under "probability", else by the (start, end) of its characters.
    The null answer's key is None.
    """
    chunks = make_chunks(
        tokenizer,
        [question],
        [context],
        max_seq_len=options.max_seq_len or 384,
        doc_stride=options.doc_stride,
        max_question_len=options.max_question_len,
    )
    takes = {*inspect.signature(getattr(model, "forward", model)).parameters}
    if getattr(getattr(model, "config", None), "type_vocab_size", 2) < 2:
        takes.discard("token_type_ids")
    starts, ends = [], []
    for begin, length in zip(chunks.row_offset, chunks.length, strict=True):
        cut = slice(begin, begin + length)
        inputs = {"input_ids": torch.from_numpy(chunks.input_ids[cut])[None].long()}
        if "attention_mask" in takes:
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "token_type_ids" in {*tokenizer.model_input_names} & takes:
            inputs["token_type_ids"] = torch.from_numpy(chunks.token_type_ids[cut])[None].long()
        with torch.inference_mode():
            output = model(**inputs)
        starts.append(np.asarray(output["start_logits"][0]))
        ends.append(np.asarray(output["end_logits"][0]))
    probability = probabilities(starts, ends, chunks)
    (encoding,) = chunks.encodings
    words, of_token = encoding.word_ids, characters(encoding, context)
    merge = options.scoring == "probability"
    count = usual = candidate_count(options.top_k, options.align_to_words or not merge)
    while True:
        spans = reference.decode_spans(
            starts,
            ends,
            chunks.context.tolist(),
            None if merge else chunks.question_id.tolist(),
            top_k=count,
            max_answer_len=options.max_answer_len,
            scoring=options.scoring,
            context_offset=None if merge else chunks.context_offset.tolist(),
            null_position=chunks.null_position.tolist(),
        )
        found: dict[Any, Found] = {}
        with_space = set()  # the keys as they would be
        for chunk, start, end, score in zip(
            spans.chunk.ravel(),
            spans.start.ravel(),
            spans.end.ravel(),
            spans.score.ravel(),
            strict=True,
        ):
            if chunk < 0:
                continue
            low, high = chunks.context[chunk].tolist()
            shift = int(chunks.context_offset[chunk]) - low
            first, last = int(start) + shift, int(end) + shift
            if options.align_to_words:
                window = (low + shift, high + shift) if merge else (0, len(words))
                first, last = widened(words, first, last, *window)
            given = of_token[first][0], of_token[last][1]
            with_space.add(context[slice(*given)].lower() if merge else given)
            place = trimmed(context, *given)
            if place[0] >= place[1]:
                continue
            key = context[slice(*place)].lower() if merge else place
            value = float(score if options.scoring == "logit" else np.exp(score))
            known = found.get(key, Found(0.0 if merge else -np.inf, 0.0))
            found[key] = Found(
                known.score + value if merge else max(known.score, value),
                max(known.probability, probability(chunk, start, end)),
            )
        # White space makes several spans one, or none: more are looked at where answers are missing.
        lost = len(found) < min(options.top_k, len(with_space))
        if not lost or (spans.chunk[:, -1] < 0).all() or count >= DEEPEST * usual:
            break
        count *= 4
    null = spans.null_score.min()
    if options.handle_impossible_answer and null > -np.inf:
        cls = enumerate(chunks.null_position.tolist())
        found[None] = Found(
            float(null if options.scoring == "logit" else np.exp(null)),
            min(probability(chunk, place, place) for chunk, place in cls if place >= 0),
        )
    return found


def probabilities(starts: list[Any], ends: list[Any], chunks: Chunks) -> Callable[..., float]:
    """A function of a span's chunk, start and end: its two softmaxes over all chunks, in float64."""
    supports = []
    for (low, high), null in zip(
        chunks.context.tolist(), chunks.null_position.tolist(), strict=True
    ):
        supports.append([*range(low, high), *([null] if null >= 0 else [])])
    totals = [
        np.logaddexp.reduce(
            np.concatenate([row[at] for row, at in zip(rows, supports, strict=True)]).astype(float)
        )
        for rows in (starts, ends)
    ]

    def probability(chunk: int, start: int, end: int) -> float:
        logits = float(starts[chunk][start]), float(ends[chunk][end])
        return float(np.exp(logits[0] - totals[0]) * np.exp(logits[1] - totals[1]))

    return probability


def characters(encoding: Any, context: str) -> list[tuple[int, int]]:
    """Those of each token; one without any has those up to where the next begins."""
    found = []
    before = 0
    for (start, end), following in zip(
        encoding.offsets, [*(start for start, _ in encoding.offsets[1:]), len(context)], strict=True
    ):
        if start == end:
            start = max(start, before)
            found.append((start, max(start, following)))
        else:
            found.append((start, end))
        before = max(before, end)
    return found


def trimmed(context: str, start: int, end: int) -> tuple[int, int]:
    """Without the white space at its ends."""
    text = context[start:end]
    return start + len(text) - len(text.lstrip()), start + len(text.rstrip())


def widened(words: Any, first: int, last: int, low: int, high: int) -> tuple[int, int]:
    """Tokens ``first`` to ``last``, widened to whole words as far as [low, high) goes."""
    if words[first] is None or words[last] is None:
        return first, last
    while first > low and words[first - 1] == words[first]:
        first -= 1
    while last < high - 1 and words[last + 1] == words[last]:
        last += 1
    return first, last
