"""Gold answers of a record: their texts, where they begin, and whether there is one at all.

Scripts that score read the texts only. So a text that is none is an error, but a start that cannot be
right (-1, NaN, past the context's end) is only not known.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any, NamedTuple

from qa_fast.files.wording import shown

IS_IMPOSSIBLE = "is_impossible"
_SPELLINGS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
    **dict.fromkeys(("", "none", "null", "nan"), None),
}
_LITERAL = re.compile(r"\s*(\[|\{\s*['\"](?:text|answer_start)['\"]\s*:)")


class Golds(NamedTuple):
    """What a record says of its gold answers.

    Attributes:
        answers: the texts; () for a question that the context does not answer; None where the record
            does not say.
        starts: the character of the context at which each begins, None where that is not known; ()
            where it is known of none.
        is_impossible: what the record says in a field of that name, which answers may contradict;
            None without it.
    """

    answers: tuple[str, ...] | None
    starts: tuple[int | None, ...]
    is_impossible: bool | None


def golds_of(record: Mapping[str, Any], name: str, context: str) -> Golds:
    """The gold answers in the field ``name`` of a record, in any of the forms in use.

    These are: a text, a list of texts, a dict of the lists ``text`` and ``answer_start``, a list of
    dicts with these keys; each of them also written out as Python or JSON in one text, as tables in CSV
    have it. Beside a single text the record may have its ``answer_start``. Texts that are whole numbers
    are taken as their digits.

    Raises:
        ValueError: answers, or an ``is_impossible``, in no such form.
    """
    is_impossible = record.get(IS_IMPOSSIBLE)
    if is_impossible is not None and type(is_impossible) is not bool:
        is_impossible = _truth(is_impossible)
    value = record.get(name)
    if type(value) is list and value and _all_are(value, str):
        return Golds(tuple(value), (), is_impossible)
    if isinstance(value, str):
        value = _literal(value, name)
    if _is_missing(value):
        return Golds(() if is_impossible else None, (), is_impossible)
    texts: Any = value
    starts: Any = None
    if isinstance(value, str):
        if not value:
            return Golds(None if is_impossible is False else (), (), is_impossible)
        texts, starts = [value], [record.get("answer_start")]
    elif isinstance(value, (dict, Mapping)):  # of which the first is told at once
        texts, starts = value.get("text"), value.get("answer_start")
        if _is_missing(texts) and "text" in value and (is_impossible or not starts):
            return Golds((), (), is_impossible)
        texts, starts = (x if isinstance(x, (list, tuple)) else [x] for x in (texts, starts))
    elif isinstance(value, (list, tuple)) and _all_are_dicts(value):
        texts = [item.get("text") for item in value]
        starts = [item.get("answer_start") for item in value]
    elif isinstance(value, (list, tuple)) and not any(isinstance(item, str) for item in value):
        # Numbers that are not called texts may be anything, such as those of sentences.
        texts = None
    found = _texts(texts)
    if found is None:
        numbers = isinstance(value, list) and _all_are(value, int)
        hint = ": numbers, as of sentences or choices, are no answers to extract" if numbers else ""
        raise ValueError(
            f"{name} must be texts, or {{'text': [...], 'answer_start': [...]}}; got "
            f"{shown(value)}{hint}"
        )
    return Golds(found, _starts(starts, len(found), len(context)), is_impossible)


def nearest(context: str, text: str, start: int | None) -> int | None:
    """Where ``text`` stands in ``context``: of several places the one nearest to ``start``.

    Example:
        >>> nearest("Ada met Ada, not Ada.", "Ada", 9), nearest("Ada", "Bob", 0)
        (8, None)
    """
    if start is None:
        start = 0
    if context.startswith(text, start):
        return start
    after = context.find(text, start)
    before = context.rfind(text, 0, start + len(text))
    if before < 0 or after < 0:
        return max(before, after) if max(before, after) >= 0 else None
    return before if start - before <= after - start else after


def _texts(value: Any) -> tuple[str, ...] | None:
    """The texts in a list; None where it is no list, or holds anything else."""
    if not isinstance(value, (list, tuple)):
        return None
    if _all_are(value, str):
        return tuple(value)
    texts = tuple(str(text) if type(text) is int else text for text in value)
    return texts if all(isinstance(text, str) for text in texts) else None


def _starts(value: Any, texts: int, characters: int) -> tuple[int | None, ...]:
    if not isinstance(value, (list, tuple)) or len(value) != texts:
        return ()
    if _all_are(value, int) and value and min(value) >= 0 and max(value) < characters:
        return tuple(value)
    starts = tuple(_start(start, characters) for start in value)
    return () if all(start is None for start in starts) else starts


def _all_are(values: Sequence[Any], kind: type) -> bool:
    """Whether all are of one type, which nearly all lists of answers are: without Python's own loop."""
    return set(map(type, values)) <= {kind}


def _all_are_dicts(values: Sequence[Any]) -> bool:
    return _all_are(values, dict) or all(isinstance(value, Mapping) for value in values)


def _start(value: Any, characters: int) -> int | None:
    """A whole number inside the context, which may be written as a text or a float; else None."""
    if type(value) is not int:
        try:
            number = float(value) if isinstance(value, (str, float)) else -1.0
        except ValueError:
            return None
        if not number.is_integer():  # NaN and the infinities neither
            return None
        value = int(number)
    return value if 0 <= value < characters else None


def _truth(value: Any) -> bool | None:
    """A boolean in any of its spellings; None where it is missing."""
    if _is_missing(value):
        return None
    spelled = str(value).strip().lower() if isinstance(value, (bool, int, float, str)) else "?"
    if spelled not in _SPELLINGS:
        raise ValueError(f"{IS_IMPOSSIBLE} must be true or false; got {shown(value)}")
    return _SPELLINGS[spelled]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and isnan(value))


def _literal(text: str, name: str) -> Any:
    """The lists and dicts that ``text`` spells, where it does; else the text itself."""
    found = _LITERAL.match(text)
    if not found:
        return text
    try:
        value = _parsed(text)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        value = text
    if isinstance(value, dict) or (isinstance(value, list) and _are_answers(value)):
        return value
    # "[1] and [2]" is a text; what begins with the keys of answers is meant as such.
    if found[1].startswith("{"):
        raise ValueError(
            f"{name} is a text that looks like answers written out, which are no Python or JSON; got "
            f"{shown(text)}"
        )
    return text


def _are_answers(value: Sequence[Any]) -> bool:
    return all(isinstance(x, str) for x in value) or all(isinstance(x, dict) for x in value)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return ast.literal_eval(_ArraysAsLists().visit(ast.parse(text.strip(), mode="eval")))


class _ArraysAsLists(ast.NodeTransformer):
    """NumPy's arrays as they are printed, ``array([20], dtype=int32)``, as the lists that they hold."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """The list in a call of array(); any other call stays, and is no literal."""
        function = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
        function = function.id if isinstance(function, ast.Name) else function
        return self.visit(node.args[0]) if function == "array" and node.args else node
