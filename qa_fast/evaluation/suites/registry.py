"""Suites by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

from qa_fast.data.errors import Argument, ArgumentError
from qa_fast.evaluation.metrics import Normalize
from qa_fast.evaluation.normalizers import (
    NORMALIZERS,
    load_normalizer,
    make_normalizer,
    name_of,
)

from . import squad
from .cmrc import cmrc2018, drcd
from .cuad import cuad
from .korquad import korquad1, korquad2, make_korquad2_normalizer, normalize_korquad1
from .persianqa import clean_persian, persianqa, persianqa_squad2
from .suite import Suite, remembered
from .tydiqa import tydiqa

Rules = Literal["1.1", "2.0"]
"""The versions of SQuAD's own suites."""


def _persian_squad() -> Normalize:
    normalize = make_normalizer()
    return lambda text: normalize(clean_persian(text))


class _Entry(NamedTuple):
    """How to make a suite: with a normalizer, and its own one where it has one."""

    make: Callable[[Normalize], Suite]
    normalizer: Callable[[], Normalize]


_MADE = {
    "squad1": _Entry(squad.squad1, make_normalizer),
    "squad2": _Entry(squad.squad2, make_normalizer),
    "xquad": _Entry(squad.xquad, make_normalizer),
    # Its own normalizer depends on the language.
    "mlqa": _Entry(squad.mlqa, make_normalizer),
    "mrqa": _Entry(squad.mrqa, make_normalizer),
    "tydiqa": _Entry(tydiqa, make_normalizer),
    "arcd": _Entry(squad.arcd, squad.make_arcd_normalizer),
    "korquad1": _Entry(korquad1, lambda: normalize_korquad1),
    "korquad2": _Entry(korquad2, make_korquad2_normalizer),
    "persianqa": _Entry(persianqa, lambda: clean_persian),
    "persianqa-squad2": _Entry(persianqa_squad2, _persian_squad),
    "cuad": _Entry(cuad, make_normalizer),
}
# Without one function that brings answers into a form.
_FIXED = {"cmrc2018": cmrc2018, "drcd": drcd}
SUITES = (*_MADE, *_FIXED)
ALIASES = {"squad": "squad2", "korquad": "korquad1"}
"""Other names; "squad" with the rules "1.1" is "squad1"."""
_SQUAD = {"1.1": "squad1", "2.0": "squad2"}


class Choice(NamedTuple):
    """A suite, and what it compares answers by.

    Attributes:
        suite: the suite.
        normalizer: the name of the normalizer in place of the suite's own; None where it is that.
    """

    suite: Suite
    normalizer: str | None


def choose_suite(
    suite: str | None = None,
    *,
    rules: Rules | None = None,
    normalizer: str | Normalize | None = None,
    language: str | None = None,
) -> Choice:
    """The suite that is meant.

    Args:
        suite: its name, one of `SUITES` or `ALIASES`. None: by ``rules``; else "mlqa" with the
            normalizer of that name, and "squad2" without.
        rules: "1.1" or "2.0": SQuAD's suites by their version.
        normalizer: in place of the suite's own: "squad", "mlqa", ``module:function``, or a function.
        language: of the answers, for MLQA's normalizer.

    Raises:
        ImportError: a library that the suite's definition needs is not installed.
        ValueError: an unknown name, or arguments that do not go together.

    Example:
        >>> choose_suite("korquad").suite.title, choose_suite(rules="1.1").suite.title
        ('KorQuAD 1.0', 'SQuAD 1.1')
    """
    name = _name(suite, rules, normalizer)
    if normalizer == "mlqa" or (normalizer is None and name == "mlqa"):
        own = name == "mlqa"
        made: Normalize | None = make_normalizer("mlqa", language)
    else:
        if language is not None:
            given = (
                f"the normalizer {name_of(normalizer)!r}" if normalizer else f"the suite {name!r}"
            )
            raise ArgumentError(
                f"{given} knows no languages; got ",
                Argument("language", language),
                ": leave it out, or choose the normalizer 'mlqa'",
            )
        own = normalizer is None or (normalizer == "squad" and _by_squad(name))
        made = None if own or normalizer is None else _normalizer_of(normalizer)
    if name in _FIXED:
        if made is not None:
            raise ValueError(
                f"the suite {name!r} compares segments of answers: it has no normalizer that could "
                "be another"
            )
        return Choice(_FIXED[name](), None)
    entry = _MADE[name]
    normalize = remembered(made or entry.normalizer())
    given_name = None if own or normalizer is None else name_of(normalizer)
    return Choice(entry.make(normalize), given_name)


def _name(suite: str | None, rules: str | None, normalizer: str | Normalize | None) -> str:
    if rules is not None and rules not in get_args(Rules):
        raise ArgumentError(Argument("rules"), f" must be '1.1' or '2.0'; got {rules!r}")
    if suite is None:
        # MLQA's script has the rules of 1.1.
        of_mlqa = normalizer == "mlqa" and rules != "2.0"
        return "mlqa" if of_mlqa else _SQUAD[rules or "2.0"]
    if suite not in SUITES and suite not in ALIASES:
        raise ArgumentError(
            Argument("suite"), f" must be one of {', '.join(SUITES)}; got {suite!r}"
        )
    if rules is not None and suite not in ("squad", _SQUAD[rules]):
        raise ArgumentError(
            Argument("rules", rules),
            f" is {_SQUAD[rules]}, and the suite is {suite!r}: leave one out",
        )
    return _SQUAD[rules] if rules and suite == "squad" else ALIASES.get(suite, suite)


def _by_squad(name: str) -> bool:
    return name in _MADE and _MADE[name].normalizer is make_normalizer and name != "mlqa"


def _normalizer_of(given: str | Normalize) -> Normalize:
    if isinstance(given, str) and given in NORMALIZERS:
        return make_normalizer(given)
    return load_normalizer(given)
