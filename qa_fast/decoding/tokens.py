"""How probable it is that an answer starts, or ends, at each token of one context."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def token_probabilities(
    logits: npt.NDArray[np.float64],
    context: npt.NDArray[np.int32],
    context_offset: npt.NDArray[np.int32],
    null_position: Iterable[int],
    row_offset: npt.NDArray[np.int64],
    tokens: int,
) -> npt.NDArray[np.float64] | None:
    """The softmax of start or of end logits over all C chunks of one context, token by token.

    It runs over all chunks and their null positions, as under ``scoring="shared"``. A token that stands
    in several chunks has its highest probability.

    Args:
        logits: flat; token i of chunk c is at ``row_offset[c] + i``.
        context: [C, 2] half-open range of context tokens in each chunk.
        context_offset: [C] index, in the whole context, of each chunk's first context token.
        null_position: [C] where the null position is in each chunk; -1 for none.
        row_offset: [C] see ``logits``.
        tokens: T, the tokens of the whole context.

    Returns:
        [T]; None where logits are NaN or +inf.

    Example:
        >>> logits = np.log([1.0, 2.0, 1.0])
        >>> one = np.zeros(1, np.int64)
        >>> token_probabilities(logits, np.array([[1, 3]]), one, [0], one, 2).round(3)
        array([0.5 , 0.25])
    """
    inside = [
        logits[row + first : row + last]
        for row, (first, last) in zip(row_offset, context, strict=True)
    ]
    null = [
        logits[row + place]
        for row, place in zip(row_offset, null_position, strict=True)
        if place >= 0
    ]
    support = np.concatenate([*inside, null])
    if not (support < np.inf).all():  # -inf is legal, NaN is not
        return None
    total = np.logaddexp.reduce(support)
    found = np.zeros(tokens)
    for offset, part in zip(context_offset, inside, strict=True):
        place = found[offset : offset + len(part)]
        np.maximum(place, np.exp(part - total), out=place)
    return found
