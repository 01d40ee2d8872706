"""`postprocess_qa_predictions`: the function of that name in Transformers' run_qa example, exact.

The example's ``utils_qa.py`` goes feature by feature, in Python, over the ``n_best_size`` greatest
start logits x the ``n_best_size`` greatest end logits. Here one `decode_spans` finds the best of
*all* spans, and only those are mapped to characters.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qa_fast.decoding.spans import decode_spans
from qa_fast.engine.candidates import PLACES, of_similar_size, span_count
from qa_fast.engine.options import check_count
from qa_fast.texts.chunks import Int64

from .run_qa_answers import (
    Float32,
    NBest,
    NullAnswers,
    best_answers,
    lowest_null_answers,
    with_null_answers,
)
from .run_qa_features import Offsets, column, optional_column
from .run_qa_files import check_keys, file_texts, n_best_lines

logger = logging.getLogger(__name__)


def postprocess_qa_predictions(
    examples: Any,
    features: Any,
    predictions: Any,
    version_2_with_negative: bool = False,
    n_best_size: int = 20,
    max_answer_length: int = 30,
    null_score_diff_threshold: float = 0.0,
    output_dir: str | Path | None = None,
    prefix: str | None = None,
    log_level: int | None = logging.WARNING,
) -> dict[Any, str]:
    """Turn the logits of a question-answering model into the text that answers each example.

    Signature, result and files are those of ``postprocess_qa_predictions`` in ``utils_qa.py`` of
    Transformers' run_qa example, whose trainer can use it as it is. A span's score is its start
    logit plus its end logit, in float32.

    Where the two differ:

    - All spans are candidates. The example misses a span whose start is not among the
      ``n_best_size`` greatest start logits of the *whole* row, question and padding included, or
      whose end not among the end logits. Where it misses none, the results are the same: texts,
      logits, probabilities (but for rounding), order. Of spans with the same score the earlier
      feature's comes first, then the one with the greater start logit. Where such ties cross the end
      of the n-best list, the earlier positions are kept; the example keeps what an unstable sort
      gives.
    - float16 logits are added in float32, so fewer spans tie.
    - NaN or +inf logits raise an error. A logit of -inf means never: such spans are left out.
    - The null answer's position is the features' ``cls_index``, where they have one (those of
      run_qa_beam_search do), for models with [CLS] elsewhere than first; else it is 0.
    - With ``version_2_with_negative``, an example with no feature, or whose spans all have no text,
      gets the text "empty", which the example (without it) gives such a one too; with it, the
      example fails. The null score of an example without features counts as 0.
    - Two examples with the same id, offsets that are not None at [CLS], and offsets of an answer
      that are not inside its context, are refused.

    Args:
        examples: Q examples with ``id`` and ``context``: a `datasets.Dataset`, a sequence of dicts
            or a dict of columns, or a pandas DataFrame. An id is a string or a number.
        features: C features in any of these forms, with ``example_id`` and ``offset_mapping``: per
            token the characters (start, end), or None outside the context. Optional:
            ``token_is_max_context``, per feature a dict from a position, as a string, to whether an
            answer may start there (missing: no); and ``cls_index``.
        predictions: start logits and end logits, each [C, N], as NumPy arrays or as tensors on any
            device; or both as one array [2, C, N]. Features may have fewer tokens than N.
        version_2_with_negative: whether examples may have no answer. The null score of an example
            is the minimum over its features of the two logits at the null position; where it
            exceeds the best answer's score by more than ``null_score_diff_threshold``, the text
            is "".
        n_best_size: most spans in an n-best list.
        max_answer_length: most tokens in an answer.
        null_score_diff_threshold: see above.
        output_dir: an existing folder for ``predictions.json``, ``nbest_predictions.json`` (texts,
            logits, and probabilities: the softmax over the list; an example a line) and, with
            ``version_2_with_negative``, ``null_odds.json`` (null score less best score).
        prefix: put before the files' names, with an underscore.
        log_level: of this module's logger; None leaves it as it is.

    Returns:
        Text by id, in the order of ``examples``.

    Raises:
        ValueError: data, logits or a number that cannot be used; the message says which and why.
        NotADirectoryError: ``output_dir`` is not a folder.

    Example:
        >>> import numpy as np
        >>> examples = [{"id": "a", "context": "Ada wrote it."}]
        >>> offsets = [None, None, None, (0, 3), (4, 9), (10, 12), (12, 13), None]
        >>> features = [{"example_id": "a", "offset_mapping": offsets}]
        >>> start = np.array([[0, 0, 0, 4, 1, 0, 0, 0]], np.float32)
        >>> end = np.array([[0, 0, 0, 3, 1, 2, 0, 0]], np.float32)
        >>> postprocess_qa_predictions(examples, features, (start, end))
        {'a': 'Ada'}
    """
    check_count("n_best_size", n_best_size)
    check_count("max_answer_length", max_answer_length)
    if output_dir is not None and not Path(output_dir).is_dir():
        raise NotADirectoryError(f"output_dir {str(output_dir)!r} is not a folder")
    if log_level is not None:
        logger.setLevel(log_level)
    ids = [_plain(name) for name in column(examples, "id", "example")]
    contexts = _checked_contexts(column(examples, "context", "example"))
    example_of = _examples_of([_plain(i) for i in column(features, "example_id", "feature")], ids)
    if output_dir is not None:
        check_keys(ids)
    start, end = _start_and_end_logits(predictions, len(example_of))
    logger.info("Post-processing %d examples split into %d features.", len(ids), len(example_of))
    features_of = np.bincount(example_of, minlength=len(ids))
    if not features_of.all():
        (without,) = np.nonzero(features_of == 0)
        logger.warning(
            "%d of the %d examples have no feature, and so no answer; the first is %r.",
            len(without),
            len(ids),
            ids[without[0]],
        )
    data = _Features.of(features, start, end, example_of, len(ids))
    texts, lines, null_odds = [""] * len(ids), [""] * len(ids), np.empty(len(ids), np.float32)
    for group, most in _examples_together(data, n_best_size, max_answer_length):
        mine = [contexts[i] for i in group.tolist()]
        nbest = _best_spans(data, group, ids, mine, most, max_answer_length)
        null = data.null.of(group)
        if version_2_with_negative:
            nbest = with_null_answers(nbest, null)
        chosen, found, null_odds[group] = best_answers(nbest, null, mine, version_2_with_negative)
        written = [""] * len(mine)
        if output_dir is not None:
            written = n_best_lines([ids[i] for i in group.tolist()], mine, nbest, found)
        for i, text, line in zip(group.tolist(), chosen, written, strict=True):
            texts[i], lines[i] = text, line
    if version_2_with_negative:
        for i in np.flatnonzero(null_odds > null_score_diff_threshold).tolist():
            texts[i] = ""
    answers = dict(zip(ids, texts, strict=True))

    if output_dir is not None:
        odds = dict(zip(ids, null_odds.tolist(), strict=True)) if version_2_with_negative else None
        for name, content in file_texts(answers, lines, odds).items():
            path = Path(output_dir, f"{name}.json" if prefix is None else f"{prefix}_{name}.json")
            logger.info("Saving %s.", path)
            path.write_text(content + "\n", encoding="utf-8")
    return answers


class _Features(NamedTuple):
    """What is read of C features, each of ``width`` tokens, and of Q examples.

    Attributes:
        width: tokens in a row of logits.
        start: [C * width] start logits, -inf where an answer may not begin.
        end: [C * width] end logits, -inf where an answer may not end.
        logits: start and end logits as given.
        offsets: what the tokens stand for.
        context: [C, 2] range of context tokens.
        null_position: [C] where the null answer is.
        null: the null answers of the examples.
        example_of: [C] the example of each feature.
        order: [C] the features, those of an example one after the other.
    """

    width: int
    start: Tensor
    end: Tensor
    logits: tuple[Tensor, Tensor]
    offsets: Offsets
    context: Int64
    null_position: Int64
    null: NullAnswers
    example_of: Int64
    order: Int64

    @classmethod
    def of(
        cls, features: Any, start: Tensor, end: Tensor, example_of: Int64, examples: int
    ) -> _Features:
        """Read what is needed of the features, and check it."""
        width = start.shape[1]
        offsets = Offsets.of(features)
        context = offsets.context.clip(max=width)
        _check_cls(offsets)
        null_position = _null_positions(features, len(context), width)
        null_at = np.arange(len(context)) * width + null_position
        null = lowest_null_answers(
            _logits_at(start, null_at), _logits_at(end, null_at), example_of, examples
        )
        may_start, may_end = _rule_out(start, end, offsets, features, null_position)
        return cls(
            width,
            may_start.reshape(-1),
            may_end.reshape(-1),
            (start, end),
            offsets,
            context,
            null_position,
            null,
            example_of,
            np.argsort(example_of, kind="stable"),
        )


def _plain(name: Any) -> Any:
    """An id as a Python object, which JSON knows."""
    scalar = isinstance(name, np.generic) or (
        isinstance(name, (np.ndarray, Tensor)) and name.ndim == 0
    )
    return name.item() if scalar else name


def _checked_contexts(contexts: list[Any]) -> list[str]:
    for i, context in enumerate(contexts):
        if not isinstance(context, str):
            what = "None" if context is None else type(context).__name__
            raise ValueError(f"context of example {i} must be a string; got {what}")
    return contexts


def _examples_of(example_ids: list[Any], ids: list[Any]) -> Int64:
    """[C]: the number of each feature's example."""
    for what, names in (("id of example", ids), ("example_id of feature", example_ids)):
        for i, name in enumerate(names):
            if getattr(type(name), "__hash__", None) is None:
                raise ValueError(f"{what} {i} must be a string or a number; got {name!r}")
    number = {name: i for i, name in enumerate(ids)}
    if len(number) != len(ids):
        again = next(i for i, name in enumerate(ids) if number[name] != i)
        raise ValueError(
            f"examples {again} and {number[ids[again]]} have the same id, {ids[again]!r}; "
            "predictions are told apart by it"
        )
    try:
        return np.array([number[name] for name in example_ids], np.int64)
    except KeyError:
        i, name = next((i, name) for i, name in enumerate(example_ids) if name not in number)
        raise ValueError(f"feature {i} is of example {name!r}, which is not given") from None


def _start_and_end_logits(predictions: Any, features: int) -> tuple[Tensor, Tensor]:
    """[C, N] each; a ``ValueError`` says what is wrong with them."""
    stacked = isinstance(predictions, (np.ndarray, Tensor)) and predictions.ndim == 3
    if not (stacked or isinstance(predictions, (tuple, list))) or len(predictions) != 2:
        got = f"{len(predictions)} items" if hasattr(predictions, "__len__") else "no sequence"
        raise ValueError(f"predictions must be two arrays, start and end logits; got {got}")
    start, end = (_floats(x, side) for x, side in zip(predictions, ("start", "end"), strict=True))
    if start.ndim != 2 or start.shape != end.shape or len(start) != features:
        raise ValueError(
            f"start and end logits must both be of shape [features, tokens], and there are "
            f"{features} features; got {list(start.shape)} and {list(end.shape)}"
        )
    if start.device != end.device:
        raise ValueError(
            f"start and end logits must be on one device; got {start.device} and {end.device}"
        )
    return (start, end) if start.dtype == end.dtype else (start.float(), end.float())


def _floats(logits: Any, side: str) -> Tensor:
    """Logits as a tensor that `decode_spans` takes, copied only where they have to be."""
    if not isinstance(logits, Tensor):
        try:
            array = np.asarray(logits)
            if array.dtype not in (np.float16, np.float32) or not array.dtype.isnative:
                if array.dtype.kind not in "fiubO":
                    raise ValueError(f"they are of type {array.dtype}")
                # An infinity is told with its example.
                with np.errstate(over="ignore"):
                    array = array.astype(np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the {side} logits must be an array of numbers: {error}") from None
        if not array.flags.writeable or any(stride < 0 for stride in array.strides):
            array = array.copy()
        return torch.from_numpy(array)
    if logits.is_complex():
        raise ValueError(f"the {side} logits must be an array of numbers: they are {logits.dtype}")
    narrow = logits.dtype in (torch.float16, torch.bfloat16)
    return logits.detach() if narrow else logits.detach().float()


def _null_positions(features: Any, count: int, width: int) -> Int64:
    """[C]: the features' ``cls_index``, else 0."""
    given = optional_column(features, "cls_index", "feature") or [0] * count
    for i, at in enumerate(map(_plain, given)):
        if at is not None and not (isinstance(at, int) and 0 <= at < width):
            raise ValueError(
                f"cls_index of feature {i} must be from 0 to {width - 1}; got {given[i]}"
            )
    return np.array([at or 0 for at in given], np.int64)


def _examples_together(
    data: _Features, n_best_size: int, max_answer_length: int
) -> list[tuple[Int64, int]]:
    """Examples whose lists are made together, and the places of each: all, but of very long lists."""
    examples = len(data.null.exists)
    if examples * n_best_size <= PLACES:
        return [(np.arange(examples), n_best_size)]
    tokens = (data.context[:, 1] - data.context[:, 0]).clip(min=0)
    held = np.zeros(examples, np.int64)
    np.add.at(held, data.example_of, span_count(tokens, max_answer_length))
    # One place more: a list may end before its last.
    return of_similar_size(held + 1, n_best_size)


def _best_spans(
    data: _Features,
    group: Int64,
    ids: list[Any],
    contexts: list[str],
    n_best_size: int,
    max_answer_length: int,
) -> NBest:
    """The best spans of some examples, which have ``contexts``."""
    start, end = data.logits
    number = np.full(len(ids), -1)
    number[group] = np.arange(len(group))
    # decode_spans wants an example's features one after the other, and finds rows by their offset.
    order = data.order[number[data.example_of[data.order]] >= 0]
    spans = decode_spans(
        data.start,
        data.end,
        torch.from_numpy(data.context[order]),
        torch.from_numpy(number[data.example_of[order]]),
        top_k=n_best_size,
        max_answer_len=max_answer_length,
        scoring="logit",
        null_position=torch.from_numpy(data.null_position[order]),
        row_offset=torch.from_numpy(order * data.width),
        num_questions=len(group),
        max_seq_len=data.width,
    )
    score, first, last, chunk, _, nonfinite = (field.cpu().numpy() for field in spans)
    if nonfinite.any():
        name = ids[group[int(nonfinite.argmax())]]
        raise ValueError(
            f"the logits of example {name!r} hold NaN or infinity, or more than float32 can"
        )

    valid = chunk >= 0
    feature, first, last = order[chunk[valid]], first[valid], last[valid]
    nbest = NBest.of_scores(valid, score)
    nbest.start_logit[valid] = _logits_at(start, feature * data.width + first)
    nbest.end_logit[valid] = _logits_at(end, feature * data.width + last)
    length = np.array([len(context) for context in contexts], np.int64)
    length = length[number[data.example_of[feature]]]
    nbest.start[valid] = _checked_characters(data.offsets, feature, first, length)[:, 0]
    nbest.end[valid] = _checked_characters(data.offsets, feature, last, length)[:, 1]
    # run_qa meets spans feature by feature, greatest start logit first, and sorts them stably.
    keys = -nbest.end_logit, -nbest.start_logit, chunk, -score
    return nbest.ordered(np.lexsort(keys, axis=1))


def _checked_characters(offsets: Offsets, feature: Int64, position: Int64, length: Int64) -> Int64:
    """[n, 2]: where tokens [n] of features [n] begin and end in contexts of [n] characters."""
    found = offsets.characters(feature, position)
    begin, stop = found.T
    (wrong,) = np.nonzero((begin < 0) | (stop < begin) | (stop > length))
    for i in wrong[:1].tolist():
        pair = f"({begin[i]}, {stop[i]})"
        raise ValueError(
            f"offset_mapping of feature {feature[i]} has {pair} at token {position[i]}, which is no "
            f"range of its example's context of {length[i]} characters"
        )
    return found


def _logits_at(logits: Tensor, at: Int64) -> Float32:
    """The logits at flat indices [n]."""
    return logits.reshape(-1)[torch.from_numpy(at).to(logits.device)].float().cpu().numpy()


def _check_cls(offsets: Offsets) -> None:
    """Offsets straight from the tokenizer would let the question be an answer."""
    (first,) = np.nonzero((offsets.context[:, 0] == 0) & (offsets.context[:, 1] > 0))
    stop = offsets.characters(first, np.zeros_like(first))[:, 1]
    for row in first[stop == 0].tolist():
        raise ValueError(
            f"offset_mapping of feature {row} begins with (0, 0), a special token's; entries outside "
            "the context must be None, as run_qa's preparation of features leaves them"
        )


def _rule_out(
    start: Tensor, end: Tensor, offsets: Offsets, features: Any, null_position: Int64
) -> tuple[Tensor, Tensor]:
    """The logits with -inf where an answer may not begin or end; mostly there is no such place."""
    width = start.shape[1]
    if offsets.gaps:
        start, end = start.clone(), end.clone()
        for row, positions in offsets.gaps.items():
            where = torch.from_numpy(positions[positions < width]).to(start.device)
            start[row, where] = end[row, where] = -torch.inf
    max_context = optional_column(features, "token_is_max_context", "feature")
    if max_context is not None:
        allowed = np.ones(start.shape, np.bool_)
        for row, is_max in enumerate(max_context):
            if not (is_max is None or isinstance(is_max, Mapping)):
                raise ValueError(
                    f"token_is_max_context of feature {row} must be a dict from positions to whether "
                    f"an answer may start there; got {type(is_max).__name__}"
                )
            if is_max is not None:
                allowed[row] = [bool(is_max.get(str(i))) for i in range(width)]
        allowed[np.arange(len(allowed)), null_position] = True
        start = start.masked_fill(~torch.from_numpy(allowed).to(start.device), -torch.inf)
    return start, end
