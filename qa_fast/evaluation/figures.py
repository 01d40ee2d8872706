"""Totals as people read them, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .metrics import Figure
from .statistics import RESAMPLES, Interval, bootstrap_means, interval_of_means, mean_interval
from .suites.cuad import FRACTIONS

CONFIDENCE_LEVEL = 0.95


def percentages(metrics: Mapping[str, float]) -> dict[str, float]:
    """The totals that are shares, in percent: no counts, no thresholds.

    Example:
        >>> percentages({"exact": 50.0, "total": 2, "best_exact_thresh": 0.1})
        {'exact': 50.0}
        >>> percentages({"aupr": 0.5})
        {'aupr': 50.0}
    """
    return {
        key: 100.0 * value if key in FRACTIONS else value
        for key, value in metrics.items()
        if not key.endswith(("total", "thresh", "TOTAL", "SKIP"))
    }


def intervals(figures: Mapping[str, Figure], seed: int) -> dict[str, Interval]:
    """Bootstrap intervals of the totals that are means, in percent.

    Of a mean of several groups' means, each group is resampled by itself.

    Args:
        figures: the totals by their keys.
        seed: of the bootstrap.
    """
    found = {}
    for key, (_, samples) in figures.items():
        if len(samples) == 1:
            (sample,) = samples
            values = 100.0 * np.asarray(sample, np.float64)
            found[key] = mean_interval(values, level=CONFIDENCE_LEVEL, seed=seed)
        elif samples:
            means = [
                bootstrap_means(sample, resamples=RESAMPLES, seed=(seed, i))
                for i, sample in enumerate(samples)
            ]
            percent = 100.0 * np.mean(means, axis=0)
            found[key] = interval_of_means(percent, level=CONFIDENCE_LEVEL)
    return found
