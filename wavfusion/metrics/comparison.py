"""Paired comparisons of two systems, from the counts of clusters and seeds, and verdicts on claims.

How well each does what it says is measured by ``scripts/simulate_statistics.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer
from scipy import stats

from wavfusion.metrics.clusters import MIN_CLUSTERS
from wavfusion.metrics.intervals import (
    SIGNIFICANCE,
    Figures,
    critical_t,
    effective_degrees,
    jackknife,
    jackknife_variance,
)

POWER = 0.8
SAME_WITHIN = 0.015  # a difference below 1.5 points does not matter, stated beforehand


@dataclass(frozen=True)
class Comparison:
    """What `compare` found for one figure of two systems; differences are first minus second, in the figure's unit."""

    difference: float
    interval: list[float]  # 95 %, over groups and seeds
    p_value: float  # two-sided, of no difference
    detectable: float | None  # `detectable_difference`; None: no possible difference would be found
    standard_error: float  # over groups and seeds
    degrees: float  # of freedom, of the standard error
    sampling_sd: float  # the part of the standard error that is due to groups
    seed_sd: list[float | None]  # of each system's figure from training to training; None with a single one
    num_groups: int
    unit: str = "group"  # what a group is: dialogue, recording, speaker, ...

    def interval_at(self, significance: float) -> list[float]:
        """Return the interval that excludes 0 exactly when p is below the significance."""
        half = float(stats.t.isf(significance / 2, self.degrees)) * self.standard_error
        return [max(-1.0, self.difference - half), min(1.0, self.difference + half)]

    def p_equal(self, within: float) -> float:
        """Return p of a true difference beyond +-`within`: the larger p of two one-sided t tests.

        Source: Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15, 1987.
        """
        return float(stats.t.sf((within - abs(self.difference)) / self.standard_error, self.degrees))


def compare(
    first: Integer[np.ndarray, "A G C C"],
    second: Integer[np.ndarray, "B G C C"],
    figures: Figures,
    unit: str = "group",
) -> dict[str, Comparison]:
    """Compare two systems on the same groups (dialogues, speakers), each trained with one or several seeds.

    Estimand: the mean over trainings of the figure of the first system, minus that of the second.

    Test and interval are one procedure, the paired t: the interval holds exactly the differences that the test at its
    level does not refuse. The standard error is that of leaving one group out, and to generalise to other seeds the
    variance between trainings is added, less what seeds and groups share, which the variance over groups holds already;
    a system trained once has none. Degrees of freedom are Satterthwaite's, from the effective number of groups in which
    the systems differ, less one: those in which they do not tell little of how much they may. Where they differ in
    none, half the interval is the share of groups in which they could, with none observed. The interval of a single
    group, which has no spread, is [-1, 1].

    Sources: Student, Biometrika 6, 1908 (paired t); Efron, The Jackknife, the Bootstrap and Other Resampling Plans,
    1982, chapter 3; Cameron and Miller, J. Human Resources 50, 2015 (t with few clusters); Searle, Casella and
    McCulloch, Variance Components, 1992, chapter 4 (crossed effects); Satterthwaite, Biometrics Bulletin 2, 1946.

    Args:
        first: confusion matrix of every training and group.
        second: the same of the other system: same groups, same order, any number of trainings.
        figures: maps stacked matrices to named figures, one value in [0, 1] per matrix.
        unit: what a group is.
    """
    systems = [first.astype(np.float64), second.astype(np.float64)]
    values = [figures(system.sum(axis=1)) for system in systems]
    moves = [jackknife(system, figures) for system in systems]
    apart = (first.mean(axis=0) != second.mean(axis=0)).any(axis=(1, 2))
    sizes = first[0].sum(axis=(1, 2))
    degrees = max(1.0, effective_degrees(sizes[apart] if apart.any() else sizes))
    return {name: _compared([v[name] for v in values], [m[name] for m in moves], degrees, unit) for name in values[0]}


def detectable_difference(standard_error: float, degrees: float) -> float:
    """Return the true difference that a two-sided test at 5 % finds with a probability of 80 %.

    Source: Bloom, Minimum detectable effects, Evaluation Review 19, 1995.
    """
    return standard_error * (critical_t(degrees) + float(stats.t.isf(1 - POWER, degrees)))


class Adjusted(NamedTuple):
    """p and interval of one comparison among several: the interval excludes 0 exactly when p is below 0.05."""

    p_value: float
    interval: list[float]


def adjust(compared: Sequence[Comparison]) -> list[Adjusted]:
    """Adjust p-values and intervals, in their order, for the number of comparisons, by Holm's steps.

    Taking the p-values <= 0.05 takes a wrong one in 5 % of tables at most. Each interval is at the level at which
    Holm's step tests: 1 - 0.05 / k where the step multiplies p by k.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6, 1979.
    """
    p = np.array([each.p_value for each in compared], dtype=np.float64)
    order = np.argsort(p, kind="stable")
    times = np.empty_like(p)
    steps = np.arange(len(p), 0, -1)
    highest = np.maximum.accumulate(p[order] * steps)
    times[order] = np.divide(highest, p[order], out=steps.astype(np.float64), where=p[order] > 0)
    return [
        Adjusted(min(1.0, float(k) * each.p_value), each.interval_at(SIGNIFICANCE / float(k)))
        for k, each in zip(times, compared, strict=True)
    ]


class Verdict(StrEnum):
    """What the data say of a claim."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNDECIDABLE = "undecidable with this much data"
    NONE = "no verdict"  # too few groups to say even that


def judge_better(found: Comparison, adjusted: Adjusted) -> tuple[Verdict, str]:
    """Judge the claim that the first system is better than the second, at 5 %, by a figure of which more is better.

    Supported: significantly better. Refuted: significantly worse; or equal within +-`SAME_WITHIN`. Else undecidable.
    None below `MIN_CLUSTERS` groups. `adjusted` is what `adjust` gives. Returns the reason, too: one line, in points
    (hundredths).
    """
    verdict, claim, p_value = Verdict.UNDECIDABLE, "better or not", adjusted.p_value
    if found.num_groups < MIN_CLUSTERS:
        too_few = f"too few {found.unit}s for a verdict ({found.num_groups}; {MIN_CLUSTERS} are needed)"
        verdict, claim = Verdict.NONE, too_few
    elif p_value <= SIGNIFICANCE:
        verdict, claim = (Verdict.SUPPORTED, "better") if found.difference > 0 else (Verdict.REFUTED, "worse")
    elif (p_equal := found.p_equal(SAME_WITHIN)) <= SIGNIFICANCE:
        verdict, claim, p_value = Verdict.REFUTED, f"equal within {_points(SAME_WITHIN)}", p_equal
    low, high = (f"{100 * end:+.1f}" for end in adjusted.interval)
    detectable = "nothing" if found.detectable is None else _points(found.detectable)
    about = f"{100 * found.difference:+.1f} points [{low}, {high}], p = {p_value:.2g}; detectable: {detectable}"
    return verdict, f"{claim}: {about}"


def _points(value: float) -> str:
    return f"{100 * value:.1f} points"


class _Variance(NamedTuple):
    variance: float
    degrees: float


def _add(one: _Variance, two: _Variance) -> _Variance:
    """Sum of two independent variances, with Satterthwaite's degrees of freedom."""
    variance = one.variance + two.variance
    if variance == 0:
        return one
    return _Variance(variance, variance**2 / (one.variance**2 / one.degrees + two.variance**2 / two.degrees))


def _seed_variance(values: Sequence[np.ndarray], deviations: Sequence[np.ndarray]) -> _Variance:
    """Variance that other seeds would add to the difference, without what seeds and groups share."""
    total, shared = _Variance(0.0, np.inf), 0.0
    for value, deviation in zip(values, deviations, strict=True):
        if (trainings := len(value)) > 1:
            total = _add(total, _Variance(float(value.var(ddof=1)) / trainings, trainings - 1))
            shared += sum(map(jackknife_variance, deviation - deviation.mean(axis=0))) / (trainings - 1) / trainings
    return _Variance(max(0.0, total.variance - shared), total.degrees)


def _compared(values: Sequence[np.ndarray], moves: Sequence[np.ndarray], degrees: float, unit: str) -> Comparison:
    num_groups = moves[0].shape[1]
    difference = float(values[0].mean() - values[1].mean())
    sampling = _Variance(jackknife_variance(moves[0].mean(axis=0) - moves[1].mean(axis=0)), degrees)
    if num_groups == 1:
        sampling = _Variance(1.0, 1.0)  # of a figure in [0, 1] no larger one is possible
    both = _add(sampling, _seed_variance(values, moves))
    if both.variance == 0:
        unseen = 1 - (SIGNIFICANCE / 2) ** (1 / num_groups)
        both = _Variance((unseen / critical_t(degrees)) ** 2, degrees)
    error = float(np.sqrt(both.variance))
    detectable = detectable_difference(error, both.degrees)
    found = Comparison(
        difference=difference,
        interval=[],
        p_value=2 * float(stats.t.sf(abs(difference) / error, both.degrees)),
        detectable=detectable if detectable <= 1 and num_groups >= MIN_CLUSTERS else None,
        standard_error=error,
        degrees=both.degrees,
        sampling_sd=float(np.sqrt(sampling.variance)),
        seed_sd=[float(value.std(ddof=1)) if len(value) > 1 else None for value in values],
        num_groups=num_groups,
        unit=unit,
    )
    return replace(found, interval=found.interval_at(SIGNIFICANCE))
