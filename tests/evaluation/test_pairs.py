"""Questions and predictions that stream by: who gets which, and what is kept where."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from collections import defaultdict, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_fast.data.answers import Prediction
from qa_fast.data.examples import Example
from qa_fast.evaluation.kept import Kept
from qa_fast.evaluation.pairs import Examples, Pairing, Predictions

IDS = st.lists(st.sampled_from("abcde"), max_size=8)


@given(IDS, IDS)
def test_each_question_gets_its_prediction(asked: list[str], predicted: list[str]) -> None:
    predictions = [Prediction(id_, f"answer {i}") for i, id_ in enumerate(predicted)]
    queues: dict[str, deque[Prediction]] = defaultdict(deque)
    for prediction in predictions:
        queues[prediction.id].append(prediction)
    last: dict[str, Prediction] = {}
    pairing = Pairing(iter(predictions))
    for id_ in asked:
        if queues[id_]:
            last[id_] = queues[id_].popleft()
        assert pairing.take(id_) == last.get(id_)
    assert [p and p.id for p in pairing.found] == [id_ if id_ in last else None for id_ in asked]
    left = [id_ for id_, queue in queues.items() for _ in queue]
    if set(left) & set(asked):
        with pytest.raises(ValueError, match="occurs twice in the predictions, or more often than"):
            pairing.left_over()
    else:
        number, first = pairing.left_over()
        assert number == len(left)
        assert (first in left) if left else first is None


def test_predictions_in_the_order_of_the_data_are_taken_one_by_one() -> None:
    taken = []

    def predictions() -> object:
        for id_ in "abc":
            taken.append(id_)
            yield Prediction(id_, "")

    pairing = Pairing(predictions())  # type: ignore[arg-type]
    for n, id_ in enumerate("abc", 1):
        pairing.take(id_)
        assert len(taken) == n
    assert pairing.left_over() == (0, None)


@pytest.mark.parametrize("wrong", ["Ada", None, {"id": "a"}, Prediction("a", 3)])  # type: ignore[arg-type]
def test_what_is_no_prediction_is_told(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"predictions must be texts by their ids.*; got"):
        Pairing([wrong]).take("a")


FULL = Prediction(
    "a", "Ada", 0, 3, 0.5, 0.25, [{"score": 0.5, "start": 0, "end": 3, "answer": "Ada"}], 2
)


def test_records_are_kept_as_they_are() -> None:
    example = Example("a", "\ud800?", "Ada \U0001f600", ("Ada",), (0,), "T", False)
    examples, predictions = Examples(), Predictions()
    for record in (example, Example("b", "", "")):
        examples.append(record)
    for prediction in (FULL, None, Prediction("b", "")):
        predictions.append(prediction)
    assert examples == [example, Example("b", "", "")]
    assert list(predictions) == [FULL, None, Prediction("b", "")]
    assert predictions[-1] == Prediction("b", "")
    assert predictions[:2] == [FULL, None]
    assert predictions != [FULL]
    assert predictions != "ab"
    for index in (3, -4):
        with pytest.raises(IndexError):
            predictions[index]
    for same in (pickle.loads(pickle.dumps(predictions)), copy.deepcopy(predictions)):
        assert same == [FULL, None, Prediction("b", "")]


def test_reading_and_adding_may_take_turns() -> None:
    kept: Kept[tuple[int]] = Kept(lambda n: n, lambda *n: n)
    for n in range(50):
        kept.append((n,))
        assert kept[n // 2] == (n // 2,)
        assert kept[-1] == (n,)
    assert list(kept) == [(n,) for n in range(50)]
    assert repr(kept) == "[(0,), (1,), (2,), ...]"


def test_memory_does_not_grow_with_what_is_kept() -> None:
    kept: Kept[tuple[str]] = Kept(lambda text: text, lambda *text: text)
    tracemalloc.start()
    for n in range(400):
        kept.append((str(n % 10) * 100_000,))  # 40 MB
    assert sum(len(text) for (text,) in kept) == 40_000_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 35_000_000
