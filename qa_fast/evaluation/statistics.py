"""How sure a figure is: bootstrap intervals, tests between two runs, calibration."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 9999


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def bootstrap_means(
    values: npt.ArrayLike, *, resamples: int, seed: int | tuple[int, ...]
) -> Floats:
    """Means of ``resamples`` samples of Q values, each drawn from them with replacement.

    A resample of Q values is a multinomial draw of how often each *distinct* value occurs, so that
    the cost depends on the number of distinct values, of which scores have few, and not on Q. The
    means have the same distribution as those of `scipy.stats.bootstrap`.

    Args:
        values: [Q], at least one.
        resamples: how many.
        seed: of the random numbers.

    Returns:
        [resamples] means.
    """
    distinct, count = np.unique(np.asarray(values, np.float64), return_counts=True)
    total = int(count.sum())
    draws = np.random.default_rng(seed).multinomial(total, count / total, size=resamples)
    return draws @ distinct / total


def mean_interval(
    values: npt.ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of the mean of Q values (Efron 1979).

    For the mean of paired differences between two runs it is the paired bootstrap.

    Args:
        values: [Q], at least one.
        level: share of intervals that hold the true mean.
        resamples: how many samples to draw.
        seed: of the random numbers.

    Example:
        >>> mean_interval([0, 1] * 50)
        Interval(low=0.4, high=0.6)
    """
    return interval_of_means(bootstrap_means(values, resamples=resamples, seed=seed), level=level)


def interval_of_means(means: Floats, *, level: float) -> Interval:
    """The percentile interval of [B] means of resamples."""
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


def mcnemar(only_a: int, only_b: int) -> float:
    """The p-value of McNemar's exact test that two runs are right equally often.

    Only the questions that one run alone gets right count. If the runs were equally good, each of
    these would go to either with probability 1/2 (McNemar 1947).

    Args:
        only_a: questions that only the first run gets right.
        only_b: questions that only the second run gets right.

    Example:
        >>> mcnemar(9, 1)
        0.021484375
    """
    from scipy.stats import binomtest

    if not only_a + only_b:
        return 1.0
    return float(binomtest(only_a, only_a + only_b).pvalue)


class Reliability(NamedTuple):
    """How often a model is right, by how sure it is of it, in B bins of equal width from 0 to 1.

    Attributes:
        edges: [B + 1] of the bins; a bin holds its upper edge, the first one 0 as well.
        total: [B] predictions in the bin.
        confidence: [B] their mean confidence; NaN where there are none.
        accuracy: [B] the share of them that is right; NaN where there are none.
        ece: expected calibration error, the mean of |accuracy - confidence| over all predictions by
            bin (Guo et al. 2017).
    """

    edges: Floats
    total: npt.NDArray[np.int64]
    confidence: Floats
    accuracy: Floats
    ece: float


def reliability(confidence: npt.ArrayLike, right: npt.ArrayLike, bins: int = 10) -> Reliability:
    """The reliability curve of Q predictions and its expected calibration error.

    Args:
        confidence: [Q] between 0 and 1.
        right: [Q] whether the prediction is right.
        bins: B.

    Raises:
        ValueError: no predictions, or a confidence outside 0 to 1.

    Example:
        >>> round(reliability([0.95, 0.95, 0.15, 0.15], [1, 0, 0, 0]).ece, 3)
        0.3
    """
    confidence, right = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    wrong = ~((confidence >= 0) & (confidence <= 1))
    if wrong.any() or not len(confidence):
        what = f"{confidence[wrong][0]} for number {np.argmax(wrong)}" if wrong.any() else "none"
        raise ValueError(f"confidences must be between 0 and 1; got {what}")
    edges = np.linspace(0, 1, bins + 1)
    place = np.maximum(np.searchsorted(edges, confidence, side="left") - 1, 0)
    count = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, weights, minlength=bins) for weights in (confidence, right)]
    with np.errstate(invalid="ignore"):
        mean_confidence, accuracy = (total / count for total in sums)
    ece = float(np.abs(sums[0] - sums[1]).sum() / len(confidence))
    return Reliability(edges, count, mean_confidence, accuracy, ece)
