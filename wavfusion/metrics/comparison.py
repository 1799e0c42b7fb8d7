"""Paired comparisons of two systems, from the counts of dialogues and seeds, and verdicts on claims.

How well each does what it says is measured by ``scripts/simulate_statistics.py``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Integer
from scipy import stats

from wavfusion.metrics.intervals import (
    CHUNK,
    SIGNIFICANCE,
    Figures,
    critical_t,
    effective_degrees,
    jackknife,
    jackknife_variance,
    require_groups,
)

POWER = 0.8
SAME_WITHIN = 0.015  # a difference below 1.5 points does not matter, stated beforehand

_NOISES = 10_000  # draws of what other seeds might add


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

    def p_equal(self, within: float) -> float:
        """Return p of a true difference beyond +-`within`: the larger p of two one-sided t tests.

        Source: Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15, 1987.
        """
        return float(stats.t.sf((within - abs(self.difference)) / self.standard_error, self.degrees))


def compare(
    first: Integer[np.ndarray, "A G C C"],
    second: Integer[np.ndarray, "B G C C"],
    figures: Figures,
    repeats: int = 10_000,
) -> dict[str, Comparison]:
    """Compare two systems on the same groups (dialogues), each trained with one or several seeds.

    Estimand: the mean over trainings of the figure of the first system, minus that of the second.

    p: each group is swapped whole between the systems or not, with probability 1/2; the figures are recomputed from the
    swapped matrices of every pair of trainings and averaged; all swaps are tried where `repeats` allows. Swaps alone
    test whether *these* trainings differ. To generalise to other seeds, seed noise is added to each swapped
    difference, and seed variance to the standard error by which it is divided. Seed variance is that between trainings,
    less what seeds and groups share, which the variance over groups holds already; a system trained once has none.

    Interval: t, from the leave-one-group-out and the seed variance, with Satterthwaite's degrees of freedom. Where the
    systems differ in no group, half its width is the share of groups in which they could, with none observed.

    Sources: Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005; Dror et al., The hitchhiker's guide
    to testing statistical significance in NLP, ACL 2018; Janssen, Statistics and Probability Letters 36, 1997
    (studentised permutation); Searle, Casella and McCulloch, Variance Components, 1992, chapter 4 (crossed effects);
    Satterthwaite, Biometrics Bulletin 2, 1946.

    Args:
        first: confusion matrix of every training and group.
        second: the same of the other system: same groups, same order, any number of trainings.
        figures: maps stacked matrices to named figures, one value in [0, 1] per matrix.
        repeats: number of swaps.

    Raises:
        ConfigError: fewer than two groups; `repeats` out of range.
    """
    require_groups(first.shape[1], repeats)
    systems = [first.astype(np.float64), second.astype(np.float64)]
    values = [figures(system.sum(axis=1)) for system in systems]
    moves = [jackknife(system, figures) for system in systems]
    degrees = effective_degrees(first[0].sum(axis=(1, 2)))
    return {
        name: _compared([v[name] for v in values], [m[name] for m in moves], swapped, degrees)
        for name, swapped in _swapped_differences(systems, figures, repeats).items()
    }


def detectable_difference(standard_error: float, degrees: float) -> float:
    """Return the true difference that a two-sided test at 5 % finds with a probability of 80 %.

    Source: Bloom, Minimum detectable effects, Evaluation Review 19, 1995.
    """
    return standard_error * (critical_t(degrees) + float(stats.t.isf(1 - POWER, degrees)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values, in their order, so that taking those <= 0.05 takes a wrong one in 5 % of tables at most.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6, 1979.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


class Verdict(StrEnum):
    """What the data say of a claim."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNDECIDABLE = "undecidable with this much data"


def judge_better(found: Comparison, p_value: float) -> tuple[Verdict, str]:
    """Judge the claim that the first system is better than the second, at 5 %, by a figure of which more is better.

    Supported: significantly better. Refuted: significantly worse; or equal within +-`SAME_WITHIN`. Else undecidable.
    `p_value` is the two-sided p as adjusted by `holm`. Returns the reason, too: one line, in points (hundredths).
    """
    verdict, claim = Verdict.UNDECIDABLE, "better or not"
    if p_value <= SIGNIFICANCE:
        verdict, claim = (Verdict.SUPPORTED, "better") if found.difference > 0 else (Verdict.REFUTED, "worse")
    elif (p_equal := found.p_equal(SAME_WITHIN)) <= SIGNIFICANCE:
        verdict, claim, p_value = Verdict.REFUTED, f"equal within {_points(SAME_WITHIN)}", p_equal
    low, high = (f"{100 * end:+.1f}" for end in found.interval)
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


def _swapped_differences(
    systems: Sequence[np.ndarray], figures: Figures, repeats: int
) -> dict[str, Float64[np.ndarray, " R"]]:
    """Differences with groups swapped between the systems, averaged over pairs of trainings."""
    num_groups, *matrix = systems[0].shape[1:]
    both = np.concatenate(systems).reshape(-1, num_groups, int(np.prod(matrix)))
    one, two = np.split(both.sum(axis=1), [len(systems[0])])
    both = both[:, (both != both[:1]).any(axis=(0, 2))]  # swapping equals changes nothing
    both = both[:, np.lexsort(np.concatenate(both, axis=1).T)]  # any order of groups, one result
    chunks: dict[str, list[np.ndarray]] = {}
    for swaps in _swaps(both.shape[1], repeats):
        leaving, coming = np.split(np.tensordot(swaps, both, (1, 1)), [len(one)], axis=1)
        change = coming[:, None] - leaving[:, :, None]
        pairs = np.stack([one[:, None] + change, two - change], axis=1)
        for name, value in figures(pairs.reshape(-1, *matrix)).items():
            means = value.reshape(len(swaps), 2, -1).mean(axis=2)
            chunks.setdefault(name, []).append(means[:, 0] - means[:, 1])
    return {name: np.concatenate(parts) for name, parts in chunks.items()}


def _swaps(num_groups: int, repeats: int) -> Iterator[Float64[np.ndarray, "R G"]]:
    """Yield, in chunks, every way to swap groups where they are at most `repeats`, else none and others at random."""
    rng = np.random.default_rng(0)
    listed = 2**num_groups <= repeats
    rows = 2**num_groups if listed else repeats
    for first in range(0, rows, CHUNK):
        numbers = np.arange(first, min(first + CHUNK, rows))[:, None]
        if listed:
            yield (numbers >> np.arange(num_groups) & 1).astype(np.float64)
        else:
            yield rng.integers(0, 2, (len(numbers), num_groups), dtype=np.int8) * (numbers > 0).astype(np.float64)


def _compared(
    values: Sequence[np.ndarray], moves: Sequence[np.ndarray], swapped: np.ndarray, degrees: float
) -> Comparison:
    num_groups = moves[0].shape[1]
    difference = float(values[0].mean() - values[1].mean())
    sampling = _Variance(jackknife_variance(moves[0].mean(axis=0) - moves[1].mean(axis=0)), degrees)
    seeds = _seed_variance(values, moves)
    both = _add(sampling, seeds)
    if both.variance == 0:
        unseen = 1 - (SIGNIFICANCE / 2) ** (1 / num_groups)
        both = _Variance((unseen / critical_t(degrees)) ** 2, degrees)
    error = float(np.sqrt(both.variance))
    half = critical_t(both.degrees) * error
    swapping = _add(sampling._replace(degrees=num_groups - 1.0), seeds)  # uneven groups cost swaps little
    detectable = detectable_difference(error, swapping.degrees)
    smallest_p = 2.0 ** (1 - num_groups)  # all groups swapped, or none
    return Comparison(
        difference=difference,
        interval=[max(-1.0, difference - half), min(1.0, difference + half)],
        p_value=_p_value(swapped, difference, num_groups, seeds),
        detectable=detectable if detectable <= 1 and smallest_p <= SIGNIFICANCE else None,
        standard_error=error,
        degrees=both.degrees,
        sampling_sd=float(np.sqrt(sampling.variance)),
        seed_sd=[float(value.std(ddof=1)) if len(value) > 1 else None for value in values],
        num_groups=num_groups,
    )


def _p_value(swapped: np.ndarray, difference: float, num_groups: int, seeds: _Variance) -> float:
    """Share of swapped differences at least as many standard errors from 0 as the difference."""
    square = num_groups * float((swapped**2).mean())

    def score(value: Any, noise: Any, seed_variance: Any) -> Any:
        own = (square - value**2) / (num_groups - 1)
        return (value + noise) ** 2 / np.maximum(own + seed_variance, 1e-30)

    bar = score(difference, 0.0, seeds.variance) * (1 - 1e-9)  # sums in another order round otherwise
    if seeds.variance == 0:
        return float((score(swapped, 0.0, 0.0) >= bar).mean())
    rng = np.random.default_rng((0, 1))
    swapped = np.tile(swapped, -(-_NOISES // len(swapped)))
    noise = np.sqrt(seeds.variance) * rng.standard_normal(len(swapped))
    estimated = seeds.variance * rng.chisquare(seeds.degrees, len(swapped)) / seeds.degrees
    return float((score(swapped, noise, estimated) >= bar).mean())
