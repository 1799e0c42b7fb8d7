"""Intervals of figures over whole groups (dialogues, speakers): cluster t and cluster bootstrap.

How well they cover is measured by ``scripts/simulate_statistics.py``.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Float64, Real
from scipy import stats
from scipy.special import expit, logit

from wavfusion.errors import ConfigError

Figures = Callable[[Float[np.ndarray, "R ..."]], Mapping[str, np.ndarray]]

MANY_GROUPS = 100  # with fewer, the percentile bootstrap covers too little (macro F1 below 93 % at 60, simulated)
SIGNIFICANCE = 0.05
CHUNK = 1_000  # resamples held in memory at once


def cluster_interval(
    counts: Real[np.ndarray, "G ..."], figures: Figures, sizes: Real[np.ndarray, " G"], seed: int = 0
) -> dict[str, list[float]]:
    """95 % interval of every figure for other groups like these; arguments as in `cluster_t`.

    By `cluster_bootstrap` from `MANY_GROUPS` groups, unless it is a single point (all right, all wrong); else by
    `cluster_t`. One group has no spread between groups: [0, 1].
    """
    if len(counts) < 2:
        return {name: [0.0, 1.0] for name in figures(counts.astype(np.float64))}
    bounds = cluster_t(counts, figures, sizes)
    if len(counts) >= MANY_GROUPS:
        resampled = cluster_bootstrap(counts, figures, seed=seed)
        bounds |= {name: [low, high] for name, (low, high) in resampled.items() if low < high}
    return bounds


def cluster_t(
    counts: Real[np.ndarray, "G ..."], figures: Figures, sizes: Real[np.ndarray, " G"]
) -> dict[str, list[float]]:
    """95 % t interval of figures over whole groups: leave-one-group-out standard error, on the logit scale.

    Degrees of freedom are the effective number of groups, (sum n^2)^2 / sum n^4 with n the size of a group, less one: a
    few large groups count as few. Where groups do not differ at all (all right, all wrong) the interval is Clopper and
    Pearson's with as many trials as groups, which holds even if the utterances of a group are all alike, and is wide.

    Sources: Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982, chapter 3; Cameron and Miller, J.
    Human Resources 50, 2015 (t with few clusters); Carter, Schnepel and Steigerwald, Rev. Econ. Stat. 99, 2017
    (effective number of clusters); Korn and Graubard, Survey Methodology 24, 1998 (exact bound on an effective size).

    Args:
        counts: what adds up over groups: one confusion matrix, or any array, per group.
        figures: maps stacked sums to named figures, one value in [0, 1] per row.
        sizes: utterances of each group.

    Raises:
        ConfigError: fewer than two groups.
    """
    require_groups(len(counts))
    deviations = jackknife(counts[None].astype(np.float64), figures)
    bounds = {}
    for name, (value,) in figures(counts.sum(axis=0, keepdims=True).astype(np.float64)).items():
        error = np.sqrt(jackknife_variance(deviations[name][0]))
        if 0 < value < 1 and error > 0:
            half = critical_t(effective_degrees(sizes)) * error / (value * (1 - value))
            ends = expit(logit(value) + np.array([-half, half]))
        else:
            ends = _clopper_pearson(float(value), len(counts))
        bounds[name] = [float(end) for end in ends]
    return bounds


def cluster_bootstrap(
    counts: Real[np.ndarray, "G ..."], figures: Figures, repeats: int = 10_000, seed: int = 0
) -> dict[str, list[float]]:
    """95 % percentile intervals of figures when whole groups (dialogues, speakers) are resampled with replacement.

    Each resample draws as many groups as there are and adds their counts. Groups with the same counts are
    interchangeable, so the draw is a multinomial over the distinct ones: the same distribution, cheap for single
    utterances, and independent of the order of the groups.

    Sources: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8 (groups drawn whole);
    Field and Welsh, Bootstrapping clustered data, J. R. Statist. Soc. B 69, 2007; Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13 (percentile interval).

    Raises:
        ConfigError: fewer than two groups, which show no spread between groups; no resample.
    """
    require_groups(len(counts), repeats)
    distinct, times = np.unique(counts.reshape(len(counts), -1), axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    chunks: dict[str, list[np.ndarray]] = {}
    for first in range(0, repeats, CHUNK):
        draws = rng.multinomial(len(counts), times / len(counts), size=min(CHUNK, repeats - first))
        # float64 counts are exact here and multiply through BLAS, which int64 does not
        sums = draws.astype(np.float64) @ distinct.astype(np.float64)
        for name, values in figures(sums.reshape(-1, *counts.shape[1:])).items():
            chunks.setdefault(name, []).append(values)
    tails = [SIGNIFICANCE / 2, 1 - SIGNIFICANCE / 2]
    return {name: [float(q) for q in np.quantile(np.concatenate(parts), tails)] for name, parts in chunks.items()}


def critical_t(degrees: float) -> float:
    """Two-sided 5 % quantile of t."""
    return float(stats.t.isf(SIGNIFICANCE / 2, degrees))


def effective_degrees(sizes: Real[np.ndarray, " G"]) -> float:
    """Degrees of freedom: the effective number of groups, less one (see `cluster_t`)."""
    square = sizes.astype(np.float64) ** 2
    # a group that outweighs all others leaves no degree of freedom, and t of none has no quantile
    return max(float(square.sum() ** 2 / (square**2).sum()) - 1, 0.1)


def jackknife(counts: Float64[np.ndarray, "T G ..."], figures: Figures) -> dict[str, Float64[np.ndarray, "T G"]]:
    """How each group moves each training's figure: (G - 1) (mean of the figures that leave one out - without it)."""
    trainings, num_groups = counts.shape[:2]
    without = counts.sum(axis=1, keepdims=True) - counts
    found = figures(without.reshape(-1, *counts.shape[2:])).items()
    left = {name: values.reshape(trainings, num_groups) for name, values in found}
    return {name: (num_groups - 1) * (each.mean(axis=1, keepdims=True) - each) for name, each in left.items()}


def jackknife_variance(deviations: Float64[np.ndarray, " G"]) -> float:
    """Variance of a figure over groups, from what `jackknife` gives for one training; 0 of a single group."""
    if len(deviations) < 2:
        return 0.0
    variance = float((deviations**2).sum()) / (len(deviations) * (len(deviations) - 1))
    return variance if variance > 1e-24 else 0.0  # rounding


def _clopper_pearson(share: float, trials: int) -> tuple[float, float]:
    hits = share * trials
    low = stats.beta.ppf(SIGNIFICANCE / 2, hits, trials - hits + 1) if hits > 0 else 0.0
    high = stats.beta.isf(SIGNIFICANCE / 2, hits + 1, trials - hits) if hits < trials else 1.0
    return low, high


def require_groups(num_groups: int, repeats: int = 1) -> None:
    """Refuse a single group, which shows no spread, and no repeat, by a ConfigError."""
    if num_groups < 2:
        raise ConfigError(f"statistics: expected at least 2 groups to compare, found {num_groups}")
    if repeats < 1:
        raise ConfigError(f"statistics: expected repeats >= 1, found {repeats}")
