"""The reference against the textbook recipe, done by hand with dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qa_fast.decoding import reference

N, QUESTION_END, CONTEXT_END = 24, 7, 22  # [CLS] question [SEP] context [SEP] [PAD]


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(2, N, generator=generator, dtype=torch.float64) * 3)


def textbook(start: torch.Tensor, end: torch.Tensor, keep: list[int]) -> torch.Tensor:
    """Mask everything but ``keep``, softmax, outer product, upper triangle."""
    mask = torch.ones(N, dtype=torch.bool)
    mask[keep] = False
    start = start.masked_fill(mask, -10000)
    end = end.masked_fill(mask, -10000)
    scores = torch.softmax(start, -1)[:, None] * torch.softmax(end, -1)[None, :]
    return torch.triu(scores)


def test_the_plain_version_in_which_cls_may_be_an_endpoint(logits):
    start, end = logits
    start[0] = start.max() + 1  # so that [CLS] is the best start
    context = range(QUESTION_END + 1, CONTEXT_END)
    scores = textbook(start, end, [0, *context])
    best = int(scores.argmax())
    five = scores.flatten().topk(5).indices

    found = reference.decode_spans(
        [start],
        [end],
        [(context.start, context.stop)],
        top_k=5,
        max_answer_len=None,
        null_in_spans=True,
    )

    assert (found.start[0, 0], found.end[0, 0]) == divmod(best, N)
    assert found.start[0, 0] == 0
    assert list(zip(found.start[0], found.end[0], strict=True)) == [divmod(int(i), N) for i in five]
    # float64 throughout but for the sum, which is rounded to float32.
    np.testing.assert_allclose(np.exp(found.score[0]), scores.flatten()[five], rtol=1e-6)


def test_context_spans_with_a_length_limit_and_the_null_score(logits):
    start, end = logits
    context = range(QUESTION_END + 1, CONTEXT_END)
    scores = textbook(start, end, [0, *context])
    null = scores[0, 0].item()
    scores[0, :] = 0.0  # [CLS] was in the softmax; it is no answer
    scores = torch.tril(scores, 3 - 1)  # at most 3 tokens
    five = scores.flatten().topk(5).indices

    found = reference.decode_spans(
        [start], [end], [(context.start, context.stop)], top_k=5, max_answer_len=3
    )

    assert list(zip(found.start[0], found.end[0], strict=True)) == [divmod(int(i), N) for i in five]
    np.testing.assert_allclose(np.exp(found.score[0]), scores.flatten()[five], rtol=1e-6)
    np.testing.assert_allclose(np.exp(found.null_score[0]), null, rtol=1e-6)


def test_shared_normalization_sums_to_one_over_all_chunks(logits):
    rows = [x.numpy() for x in logits]
    found = reference.decode_spans(
        rows, rows[::-1], [(5, N), (1, 9)], [0, 0], top_k=N * N, max_answer_len=None,
        scoring="shared", distinct=False, null_in_spans=True,
    )  # fmt: skip
    # All spans with start <= end inside a chunk: some of the mass of start x end, never more.
    assert 0 < np.exp(found.score[0]).sum() < 1


def test_a_span_in_two_chunks_counts_once_with_its_best_score():
    low, high = [0.0, 1.0, 2.0], [0.0, 5.0, 2.0]
    options = {"top_k": 3, "max_answer_len": 1, "scoring": "logit", "context_offset": [4, 4]}
    both = [low, high], [low, high], [(1, 3), (1, 3)], [0, 0]
    once = reference.decode_spans(*both, **options)
    assert once.score[0].tolist() == [10.0, 4.0, -np.inf]
    assert once.chunk[0].tolist() == [1, 0, -1]
    twice = reference.decode_spans(*both, **options, distinct=False)
    assert twice.score[0].tolist() == [10.0, 4.0, 4.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_non_finite_logits_are_reported_and_give_no_answer(bad):
    start = [[0.0, bad, 1.0], [0.0, 1.0, 2.0]]
    found = reference.decode_spans(start, start, [(1, 3), (1, 3)])
    assert found.nonfinite.tolist() == [True, False]
    assert np.isnan(found.score[0]).all()
    assert (found.start[0] == -1).all()
