"""What a caller may pass as questions and contexts, and the pairs that it means.

All call forms of the pipeline that Transformers removed, with any sequence where it took lists. What
only looks like one is refused: the keys of a mapping or of a table are not its texts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, NamedTuple

import torch

from qa_fast.data.errors import ExampleError
from qa_fast.data.frames import table_columns
from qa_fast.data.sources import length_of
from qa_fast.engine.streams import Pair
from qa_fast.texts.problems import text_problem


class Inputs(NamedTuple):
    """The pairs of a call, and in what the caller expects their results.

    Attributes:
        pairs: a list, or an iterator where the caller gave something to stream.
        lone: where there is only one pair: its result is given bare, not in a list.
        length: the number of pairs of a stream, None where it does not tell.
    """

    pairs: list[Pair] | Iterator[Pair]
    lone: bool = False
    length: int | None = None


def read_inputs(
    positional: tuple[Any, ...],
    question: Any = None,
    context: Any = None,
    data: Any = None,
    X: Any = None,
) -> Inputs:
    """Make pairs of a call's arguments.

    A plain list or tuple of one counts as one question, as it always has; a column of a data set
    with one row is still a column, and a list of one that holds lists stands for those.

    Args:
        positional: a question and a context; a dict; an object with ``question_text`` and
            ``context_text``; an iterable of such dicts and objects; a table with the columns question
            and context; or several dicts and objects.
        question: the argument of that name: a text, several, or None.
        context: the argument of that name: a text, several, or None.
        data: in place of one positional input.
        X: the same.

    Raises:
        ValueError: something else; the message says what was given.
    """
    named = [value for value in (data, X) if value is not None]
    if named and (positional or len(named) > 1):
        raise ValueError("give the inputs once: data= and X= are names of the positional input")
    positional = positional or tuple(named)
    if not positional:
        return _paired(question, context)
    if question is not None or context is not None:
        raise ValueError(
            "give either question= and context=, or positional inputs (or data=, X=), not both"
        )
    if len(positional) == 2 and all(isinstance(text, str) for text in positional):
        return _paired(*positional)
    given: Any = positional[0] if len(positional) == 1 else list(positional)
    if _is_streamed(given):
        pairs = (_pair(item, i) for i, item in enumerate(_iterate(given)))
        return Inputs(pairs, length=length_of(given))
    if _is_plain(given) and len(given) == 1 and _holds_several(given[0]):
        return _paired(given[0]["question"], given[0]["context"])._replace(lone=False)
    if (columns := table_columns(given)) is not None:
        missing = [name for name in ("question", "context") if name not in columns]
        if missing:
            raise ValueError(
                f"the {type(given).__name__} has no column {' and no '.join(missing)}; it has "
                f"{', '.join(map(repr, columns))}"
            )
        for name in ("question", "context"):
            if (count := columns.count(name)) > 1:
                raise ValueError(f"the {type(given).__name__} has {count} columns named {name!r}")
        return _paired(given["question"], given["context"])
    if isinstance(given, Mapping) and {"question", "context"} <= given.keys():
        return _paired(given["question"], given["context"])
    if isinstance(given, (set, frozenset)):
        raise ValueError("inputs must have an order; got a set: pass a list")
    if isinstance(given, (str, bytes, Mapping)) or not _is_many(given):
        return Inputs([_pair(given, 0)], lone=True)
    return Inputs([_pair(item, i) for i, item in enumerate(_iterate(given))], _is_plain(given))


def read_texts(name: str, value: Any) -> list[str]:
    """The texts of a sequence of them, which is no single text.

    Args:
        name: of the argument, for errors.
        value: a list, a tuple, a column of pandas, NumPy, pyarrow, polars or datasets, an iterator.

    Raises:
        ValueError: something else, such as a mapping; or an item that is no text, a missing value of a
            column among them.
    """
    refusal = _refusal(name, value)
    if refusal is not None:
        raise ValueError(f"{name} must be {refusal}")
    texts = [_text(item) for item in _iterate(value)]
    for number, text in enumerate(texts):
        _check_text(name.removesuffix("s"), number, text)
    return texts


class SquadExample:
    """A question and its context in one object, as the removed pipeline made them.

    The class of that name in Transformers up to 5.2, which newer ones lack. The pipelines read
    ``question_text`` and ``context_text`` of such objects, whatever their class.

    Args:
        qas_id: an id, or None.
        question_text: the question.
        context_text: the context.
        answer_text: the answer, where it is known.
        start_position_character: where the answer begins in the context, where that is known.
        title: a title, or None.
        answers: all known answers.
        is_impossible: whether the context has no answer.

    Attributes:
        doc_tokens: the words of the context, between white space.
        char_to_word_offset: for each character of the context the number of its word, or of the
            last word before it.
        start_position: the word at which the answer begins; 0 where that is not known.
        end_position: the word at which it ends; 0 where that is not known.
    """

    def __init__(
        self,
        qas_id: Any,
        question_text: str,
        context_text: str,
        answer_text: str | None,
        start_position_character: int | None,
        title: str | None,
        answers: Any = (),
        is_impossible: bool = False,
    ) -> None:
        self.qas_id = qas_id
        self.question_text = question_text
        self.context_text = context_text
        self.answer_text = answer_text
        self.title = title
        self.answers = list(answers)
        self.is_impossible = is_impossible
        self.start_position = self.end_position = 0
        if start_position_character is not None and not is_impossible:
            word_of = self.char_to_word_offset
            last = start_position_character + len(answer_text or "") - 1
            self.start_position = word_of[start_position_character]
            self.end_position = word_of[min(last, len(word_of) - 1)]

    @cached_property
    def doc_tokens(self) -> list[str]:
        """The words."""
        return [word[0] for word in _WORD.finditer(self.context_text)]

    @cached_property
    def char_to_word_offset(self) -> list[int]:
        """The number of each character's word."""
        starts = [word.start() for word in _WORD.finditer(self.context_text)]
        borders = [0, *starts, len(self.context_text)]
        return list(
            chain.from_iterable(
                [number - 1] * (end - start)
                for number, (start, end) in enumerate(pairwise(borders))
            )
        )


_WORD = re.compile(r"[^ \t\r\n\u202f]+")


def make_samples(question: Any, context: Any) -> Any:
    """`SquadExample` objects of questions and contexts; for one text of each the object itself."""
    # Where Transformers has a class of that name, callers look for that.
    kind = getattr(sys.modules.get("transformers"), "SquadExample", SquadExample)
    pairs = _paired(question, context).pairs
    samples = [kind(None, *pair, None, None, None) for pair in pairs]
    lone = isinstance(question, str) and isinstance(context, str)
    return samples[0] if lone else samples


def _paired(question: Any, context: Any) -> Inputs:
    """Pairs of questions and contexts, each one text, several, or several in a list of one."""
    question, context = _text(question), _text(context)
    for name, value in (("question", question), ("context", context)):
        if value is None:
            raise ValueError(f"{name} is missing: both question= and context= are needed")
        if not isinstance(value, str) and (refusal := _refusal(name, value)) is not None:
            raise ValueError(f"{name} must be a string or {refusal}")
    if _is_nested(question) or _is_nested(context):
        if not all(
            isinstance(x, str) or (_is_plain(x) and len(x) == 1) for x in (question, context)
        ):
            raise ValueError(
                "a list in a list goes with a text, or with a list of one, as the other argument"
            )
        question, context = (x if isinstance(x, str) else x[0] for x in (question, context))
        return _zipped(question, context, lone=False)
    lone = all(isinstance(value, str) or _is_plain(value) for value in (question, context))
    return _zipped(question, context, lone)


def _zipped(question: Any, context: Any, lone: bool) -> Inputs:
    questions = None if isinstance(question, str) else read_texts("question", question)
    contexts = None if isinstance(context, str) else read_texts("context", context)
    if questions is None:
        return Inputs([(question, text) for text in contexts or [context]], lone)
    if contexts is None:
        return Inputs([(text, context) for text in questions], lone)
    if len(questions) != len(contexts):
        raise ValueError(
            f"there are {len(questions)} questions and {len(contexts)} contexts: give as many "
            "of one as of the other, or a single string for one of them"
        )
    return Inputs(list(zip(questions, contexts, strict=True)), lone)


def _pair(item: Any, number: int) -> Pair:
    """The pair in a dict or an object like Transformers' SquadExample."""
    if isinstance(item, Mapping):
        missing = [name for name in ("question", "context") if name not in item]
        if missing:
            raise ValueError(
                f"input {number} has no {' and no '.join(missing)}; it has {list(item)[:20]}"
            )
        pair = item["question"], item["context"]
    elif hasattr(item, "question_text") and hasattr(item, "context_text"):
        pair = item.question_text, item.context_text
    else:
        raise ValueError(
            f"input {number} is of type {type(item).__name__}; each must be a dict with the keys "
            "question and context, or an object with question_text and context_text. Texts are given "
            "by name: question=..., context=..."
        )
    question, context = map(_text, pair)
    _check_text("question", number, question)
    _check_text("context", number, context)
    return question, context


def _check_text(name: str, number: int, text: Any) -> None:
    if not isinstance(text, str):
        problem = text_problem(text)
        assert problem is not None
        raise ExampleError(number, name, problem.reason, problem.remedies)


def _text(value: Any) -> Any:
    """A text of pyarrow as one of Python; anything else as it is."""
    return value if isinstance(value, str) or not hasattr(value, "as_py") else value.as_py()


def _refusal(name: str, value: Any) -> str | None:
    """What is wrong with ``value`` as a sequence of texts, to follow "must be"; None where it is one."""
    wanted = f"a sequence of strings; got {type(value).__name__}"
    columns = table_columns(value)
    dimensions = getattr(value, "ndim", 1)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{wanted}: decode it, as in {name}.decode('utf-8')"
    if isinstance(value, Mapping):
        return f"{wanted}, whose keys would be read: pass list({name}.values()), or some of them"
    if isinstance(value, (set, frozenset)):
        return f"{wanted}, which has no order: pass a list"
    if columns is not None:
        return f"{wanted}: pass one column of it, such as {name}[{next(iter(columns), name)!r}]"
    if isinstance(dimensions, int) and dimensions != 1:
        remedy = f"{name}.item()" if dimensions == 0 else f"{name}.ravel()"
        return f"{wanted} of {dimensions} dimensions: pass {remedy}"
    return None if not isinstance(value, str) and _is_many(value) else wanted


def _is_plain(data: Any) -> bool:
    return type(data) in (list, tuple)


def _is_nested(value: Any) -> bool:
    """Whether ``value`` is a list of one that holds a list."""
    return _is_plain(value) and len(value) == 1 and _is_several(value[0])


def _holds_several(item: Any) -> bool:
    """Whether ``item`` is a dict of questions and contexts with a list among them."""
    return (
        isinstance(item, Mapping)
        and {"question", "context"} <= item.keys()
        and (_is_several(item["question"]) or _is_several(item["context"]))
    )


def _is_several(value: Any) -> bool:
    return not isinstance(value, (str, bytes)) and _is_many(value)


def _is_many(data: Any) -> bool:
    """Whether ``data`` can be gone through; some data sets only have a length and items."""
    if getattr(data, "ndim", None) == 0:  # an array, which has no items
        return False
    return hasattr(data, "__iter__") or (hasattr(data, "__getitem__") and hasattr(data, "__len__"))


def _is_streamed(data: Any) -> bool:
    """Whether ``data`` may be too much for memory: iterators and data sets."""
    streamed: tuple[type, ...] = (Iterator, torch.utils.data.Dataset)
    if "datasets" in sys.modules:  # else it cannot be one of that library's
        datasets = sys.modules["datasets"]
        streamed += (datasets.Dataset, datasets.IterableDataset)
    return isinstance(data, streamed)


def _iterate(data: Any) -> Iterable[Any]:
    if hasattr(data, "to_pylist"):  # pyarrow: all at once is much faster
        return data.to_pylist()
    if hasattr(data, "__iter__"):
        return iter(data)
    return (data[i] for i in range(len(data)))
