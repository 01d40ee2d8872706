"""Model families: each is answered from as if its chunks were read one by one, unpadded."""

from __future__ import annotations

import inspect
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.utils import ModelOutput

from qa_fast.decoding import reference
from qa_fast.engine import Engine, Options

from ..helpers import oracle
from ..helpers.tiny import xquad
from ..helpers.zoo import ZOO, family_model, family_tokenizer

Pair = tuple[str, str]
Scores = dict[tuple[int, int], float]

MAX_SEQ_LEN, DOC_STRIDE, MAX_ANSWER_LEN = 96, 16, 15
OPTIONS = Options(
    top_k=4,
    max_seq_len=MAX_SEQ_LEN,
    doc_stride=DOC_STRIDE,
    max_answer_len=MAX_ANSWER_LEN,
    align_to_words=False,
    handle_impossible_answer=True,
    scoring="logit",
)


def pairs() -> list[Pair]:
    """Contexts of one to many chunks, in several scripts."""
    found = [("Who?", "Ada."), ("Who wrote the note?", "It was Ada who wrote it. " * 9)]
    found += [(p[0]["qas"][0]["question"], p[0]["context"][:250]) for p in xquad().values()]
    return [*found, ("Who was it?", "It was Ben.")]


def directly(model: Any, tokenizer: Any, pair: Pair) -> tuple[Scores, float]:
    """All spans' scores by character offsets, and the null score: the tokenizer's own chunks, the
    model on each of them alone, and the reference.
    """
    question, context = pair
    left = tokenizer.padding_side == "left"
    encoded = tokenizer(
        *((context, question) if left else (question, context)),
        truncation="only_first" if left else "only_second",
        max_length=MAX_SEQ_LEN,
        stride=DOC_STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    accepted = set(tokenizer.model_input_names) & set(inspect.signature(model.forward).parameters)
    scores: Scores = {}
    null_score = np.inf
    for i in range(len(encoded["input_ids"])):
        inputs = {name: torch.tensor([encoded[name][i]]) for name in accepted}
        with torch.inference_mode():
            # A copy, since models may adapt to what they have read.
            output = deepcopy(model)(**inputs)
        inside = [s == (0 if left else 1) for s in encoded.sequence_ids(i)]
        first = inside.index(True)
        at = encoded["input_ids"][i]
        cls = tokenizer.cls_token_id
        spans = reference.decode_spans(
            [output.start_logits[0].numpy()],
            [output.end_logits[0].numpy()],
            [(first, first + sum(inside))],
            top_k=10_000,
            max_answer_len=MAX_ANSWER_LEN,
            scoring="logit",
            null_position=at.index(cls) if cls in at else -1,
        )
        null_score = min(null_score, float(spans.null_score[0]))
        offsets = encoded["offset_mapping"][i]
        for score, start, end in zip(spans.score[0], spans.start[0], spans.end[0], strict=True):
            if start >= 0:
                place = oracle.trimmed(context, offsets[start][0], offsets[end][1])
                if place[0] >= place[1]:
                    continue
                scores[place] = max(scores.get(place, -np.inf), float(score))
    return scores, null_score


def check(answers: list[Any], scores: Scores, null_score: float) -> None:
    """The best places with their scores, but for the noise of float32 sums in another order."""
    candidates = dict(scores)
    places = [(a["start"], a["end"]) for a in answers]
    if null_score > -np.inf:
        assert (0, 0) not in candidates
        candidates[0, 0] = null_score
    else:
        assert (0, 0) not in places
    assert len(set(places)) == len(places) > 0
    found = [a["score"] for a in answers]
    assert found == pytest.approx([candidates[place] for place in places], rel=1e-4, abs=1e-3)
    # Of the rest, several token spans may stand for the same place and take its candidates.
    best = sorted(candidates.values(), reverse=True)[:2]
    assert found[:2] == pytest.approx(best, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("name", ZOO)
def test_answers_are_those_of_chunks_read_one_by_one(name: str) -> None:
    tokenizer, model = family_tokenizer(name), family_model(name)
    expected = [directly(model, tokenizer, pair) for pair in pairs()]
    # Batches of everything, of few, of one; and in another order.
    for batches, order in (
        ({"max_batch_tokens": 10_000}, 1),
        ({"max_batch_tokens": 250}, -1),
        ({"batch_size": 1}, 1),
    ):
        engine = Engine(deepcopy(model), tokenizer, **batches)
        readings = list(engine.read(pairs()[::order], OPTIONS))[::order]
        assert max(reading.chunks for reading in readings) > 2
        for reading, (scores, null_score) in zip(readings, expected, strict=True):
            check(reading.answers, scores, null_score)


class ExportedModel:
    """Shaped like optimum's ORTModelForQuestionAnswering: no torch module, but ``forward`` and more."""

    def __init__(self, model: Any, as_numpy: bool) -> None:
        self.model, self.as_numpy = model, as_numpy
        self.config, self.device = model.config, torch.device("cpu")

    def forward(
        self,
        input_ids: torch.Tensor | np.ndarray | None = None,
        attention_mask: torch.Tensor | np.ndarray | None = None,
        token_type_ids: torch.Tensor | np.ndarray | None = None,
        *,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> ModelOutput:
        assert return_dict is None
        assert not kwargs
        assert {input_ids.dtype, attention_mask.dtype} == {torch.int64}
        with torch.inference_mode():
            output = self.model(input_ids, attention_mask, token_type_ids)
        logits = output.start_logits, output.end_logits
        start, end = (x.numpy() for x in logits) if self.as_numpy else logits
        return ModelOutput(start_logits=start, end_logits=end)

    def __call__(self, *args: Any, **kwargs: Any) -> ModelOutput:
        return self.forward(*args, **kwargs)


@pytest.mark.parametrize("as_numpy", [True, False], ids=["numpy", "torch"])
def test_exported_models(as_numpy: bool) -> None:
    tokenizer, model = family_tokenizer("bert"), family_model("bert")
    engine = Engine(ExportedModel(model, as_numpy), tokenizer)
    for reading, pair in zip(engine.read(pairs(), OPTIONS), pairs(), strict=True):
        check(reading.answers, *directly(model, tokenizer, pair))


@pytest.mark.parametrize(
    ("name", "head", "returned"),
    [
        ("bert", "Model", "last_hidden_state"),
        ("bert", "ForTokenClassification", "logits"),
        ("gpt2", "LMHeadModel", "logits"),
        ("xlnet", "ForQuestionAnswering", "start_top_log_probs"),
    ],
)
def test_models_of_another_kind_are_refused_by_name(name: str, head: str, returned: str) -> None:
    tokenizer, right = family_tokenizer(name), family_model(name)
    family = type(right).__name__.partition("For")[0]
    model = getattr(transformers, family + head)(right.config).eval()
    message = (
        rf"^{type(model).__name__} cannot be used: it returned .*{returned}.*start_logits and "
        r"end_logits are needed, .*ForQuestionAnswering class \(XLNet and XLM: "
    )
    with pytest.raises(ValueError, match=message):
        list(Engine(model, tokenizer).read(pairs(), OPTIONS))
