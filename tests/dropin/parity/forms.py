"""Ways to call the pipeline, shared by both sides: the removed one, and ours.

This file is imported by the peer's interpreter too, so it needs torch and Transformers only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers.pipelines.pt_utils import KeyDataset

CONTEXT = "Ada Lovelace was born in London in 1815. Marie Curie was born in Warsaw in 1867."
ADA, MARIE = "Where was Ada Lovelace born?", "Where was Marie Curie born?"
DICTS = [{"question": ADA, "context": CONTEXT}, {"question": MARIE, "context": CONTEXT}]
LONG = (ADA + " ") * 100


class Items:
    """A length and items, and nothing else."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


class TorchData(Items, torch.utils.data.Dataset):  # type: ignore[type-arg]
    pass


def one(**args: Any) -> Callable[[Any], Any]:
    """A call with one question and ``args``."""
    return lambda qa: qa(**{"question": ADA, "context": CONTEXT, **args})


FORMS: dict[str, Callable[[Any], Any]] = {
    # Keywords.
    "strings": one(),
    "lists": one(question=[ADA, MARIE], context=[CONTEXT, CONTEXT]),
    "lists_of_one": one(question=[ADA], context=[CONTEXT]),
    "list_of_one_question": one(question=[ADA]),
    "one_context": one(question=[ADA, MARIE]),
    "one_question": one(context=[CONTEXT, CONTEXT]),
    "tuples": one(question=(ADA, MARIE), context=(CONTEXT, CONTEXT)),
    "arrays": one(question=np.array([ADA, MARIE]), context=np.array([CONTEXT] * 2)),
    "lists_in_lists": one(question=[[ADA, MARIE]], context=[[CONTEXT, CONTEXT]]),
    "lists_in_lists_of_two_answers": one(question=[[ADA, MARIE]], context=[[CONTEXT] * 2], top_k=2),
    "lists_of_one_in_lists": one(question=[[ADA]], context=[[CONTEXT]]),
    "empty_lists": one(question=[], context=[]),
    # Positions, as Transformers 4 allowed.
    "positional_strings": lambda qa: qa(ADA, CONTEXT),
    "dict": lambda qa: qa(DICTS[0]),
    "list_of_dicts": lambda qa: qa(DICTS),
    "tuple_of_dicts": lambda qa: qa(tuple(DICTS)),
    "list_of_one_dict": lambda qa: qa(DICTS[:1]),
    "two_dicts": lambda qa: qa(*DICTS),
    "dict_of_lists": lambda qa: qa({"question": [ADA, MARIE], "context": [CONTEXT] * 2}),
    "dict_of_lists_in_a_list": lambda qa: qa(
        [{"question": [ADA, MARIE], "context": [CONTEXT] * 2}]
    ),
    "sample": lambda qa: qa(qa.create_sample(question=ADA, context=CONTEXT)),
    "samples": lambda qa: qa(qa.create_sample(question=[ADA, MARIE], context=[CONTEXT] * 2)),
    "extra_key": lambda qa: qa([{**DICTS[0], "id": 7}, DICTS[1]]),
    "empty_list": lambda qa: qa([]),
    "data": lambda qa: qa(data=DICTS),
    "X": lambda qa: qa(X=DICTS),
    "items": lambda qa: qa(Items(DICTS)),
    # Streams.
    "generator": lambda qa: qa(item for item in DICTS),
    "torch_data": lambda qa: qa(TorchData(DICTS)),
    "torch_data_length": lambda qa: len(qa(TorchData(DICTS))),
    "key_data": lambda qa: qa(KeyDataset([{"x": item} for item in DICTS], "x")),
    "iterator": lambda qa: qa(iter(DICTS)),
    # Arguments.
    "top_k": one(top_k=3),
    "top_k_of_two": one(question=[ADA, MARIE], top_k=2),
    "top_k_numpy": one(top_k=np.int64(2)),
    "topk": one(topk=2),
    "none": one(top_k=None, doc_stride=None, align_to_words=None),
    "no_answer": one(context="Bob is in Paris.", handle_impossible_answer=True, top_k=3),
    "no_answer_as_1": one(context="Bob is in Paris.", handle_impossible_answer=1, top_k=3),
    "padding": one(padding="max_length"),
    "batch_size": one(question=[ADA, MARIE], batch_size=2, num_workers=0),
    "unknown_argument": one(truncation=True),
    "few_candidates": one(question="Who?", context="Ada Bob", top_k=20),
    "max_seq_len_unneeded": one(max_seq_len=1024),
    "blank_question": one(question="  "),
    # Mistakes.
    "numbers_differ_in_lists": one(question=[[ADA, MARIE]], context=[[CONTEXT], [CONTEXT]]),
    "lists_in_two": one(question=[[ADA], [MARIE]], context=[[CONTEXT], [CONTEXT]]),
    "mapping_as_question": one(question={"q1": ADA}),
    "numbers_differ": one(question=[ADA, MARIE, ADA], context=[CONTEXT] * 2),
    "no_context": lambda qa: qa(question=ADA),
    "context_none": one(context=None),
    "question_int": one(question=3),
    "empty_question": one(question=""),
    "empty_context": one(context=""),
    "blank_context": one(context="  "),
    "missing_key": lambda qa: qa([{"question": ADA}, DICTS[1]]),
    "top_k_zero": one(top_k=0),
    "top_k_float": one(top_k=2.0),
    "max_answer_len_zero": one(max_answer_len=0),
    "doc_stride_large": one(doc_stride=500),
    "doc_stride_as_max_seq_len": one(doc_stride=384),
    "max_seq_len_large": one(context=CONTEXT * 60, max_seq_len=1024),
    "padding_unknown": one(padding="whatever"),
    "question_long": one(question=LONG),
    "question_long_cut": one(question=LONG, max_question_len=20),
    "surrogate": one(context=CONTEXT + "\ud800"),
}


def outcome(form: Callable[[Any], Any], qa: Any) -> dict[str, Any]:
    """What ``form`` gives, in JSON: its kind and results with the types of the values, or the error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = form(qa)
            kind = type(result).__name__ if isinstance(result, (dict, list, int)) else "stream"
            value = _plain(list(result) if kind == "stream" else result)
        except BaseException as error:
            kind = ValueError if isinstance(error, ValueError) else type(error)
            return {"error": kind.__name__, "message": str(error)[:200]}
    told = {w.category.__name__ for w in caught} & {"UserWarning"}
    return {"kind": kind, "value": value, "warned": sorted(told)}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        keys = ["score", "start", "end", "answer"]
        assert list(value) == keys, f"a result with the keys {list(value)}"
        types = [type(value[key]).__name__ for key in keys]
        assert types == ["float", "int", "int", "str"], f"a result of the types {types}"
    return value
