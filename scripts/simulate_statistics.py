"""Measure on generated test sets whether wavfusion/metrics does what it says; prints five tables.

Intervals: share of test sets whose 95 % interval holds the figure of an endless test set. Paired test: share of pairs
of equal systems that are found different, and of pairs apart by the detectable difference that are found so.
Some ten minutes on one free core; --sets 100 gives a first idea in one. The seeds are fixed.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats
from scipy.special import expit

from wavfusion.metrics.comparison import Comparison, compare
from wavfusion.metrics.intervals import cluster_bootstrap, cluster_t
from wavfusion.metrics.scores import class_figures, class_intervals, figures

SHARES = np.array([0.09, 0.15, 0.23, 0.15, 0.14, 0.24])  # of IEMOCAP's six emotions
EASE = np.array([-0.3, 1.2, 0.6, 0.9, 0.9, 0.5])  # of each, as logit of being recognised: 64 % on the whole
MISTAKEN = np.random.default_rng(99).dirichlet(np.ones(6), 6) * (1 - np.eye(6))
MISTAKEN /= MISTAKEN.sum(axis=1, keepdims=True)
NAMES = ("accuracy", "weighted_f1", "macro_f1", "uar")
REPEATS = 600  # resamples of one test set; enough for a share of thousands

Bounds = dict[str, list[float]]


@dataclass(frozen=True)
class World:
    """How test sets come about; dialogues differ in length, in their emotions and in how easy they are."""

    name: str
    length: float = 50.0  # utterances of a dialogue, mean
    uneven: float = 0.5  # its standard deviation over its mean
    common: float = 0.5  # spread of ease between dialogues (logit)
    by_emotion: float = 0.5  # and of each emotion in them
    speakers: float = 0.0  # spread of ease between speakers
    sentences: float = 0.0  # two fixed sentences are easier and harder by it; each emotion is said equally often


IEMOCAP = World("IEMOCAP-like, 50 a dialogue")
WORLDS = {
    IEMOCAP: (5, 10, 20, 30, 60, 100, 151),
    World("weaker correlation", common=0.15, by_emotion=0.15): (30,),
    World("MELD-like, 9 a dialogue", length=9, uneven=0.6): (30, 280),
    World("very uneven dialogues", uneven=1.0): (30,),
}
RAVDESS = World("RAVDESS-like, 60 a speaker", length=60, uneven=0, sentences=0.3)
SPEAKERS = replace(IEMOCAP, name="speakers of 15 dialogues each", speakers=0.5)


def dialogues(rng: np.random.Generator, num: int, world: World, ease: np.ndarray | float = 0.0) -> np.ndarray:
    """Confusion matrices of dialogues; `ease` is added to theirs."""
    sizes = lengths(rng, num, world)
    counts = rng.multinomial(sizes, rng.dirichlet(4 * SHARES, num))
    own = world.common * rng.standard_normal((num, 1)) + world.by_emotion * rng.standard_normal((num, 6))
    if world.sentences:
        return sentences(rng, num, world, own).sum(axis=1)
    return predicted(rng, counts, EASE + own + ease)


def sentences(rng: np.random.Generator, num: int, world: World, own: np.ndarray) -> np.ndarray:
    """Confusion matrices [speakers, 2, 6, 6] of the two sentences that every speaker says in every emotion."""
    counts = np.full((num, 6), round(world.length / 12))
    easier = (world.sentences, -world.sentences)
    return np.stack([predicted(rng, counts, EASE + own + each) for each in easier], axis=1)


def predicted(rng: np.random.Generator, counts: np.ndarray, ease: np.ndarray) -> np.ndarray:
    """Confusion matrices of so many utterances of each emotion."""
    hits = rng.binomial(counts, expit(ease))
    tables = rng.multinomial((counts - hits).ravel(), np.tile(MISTAKEN, (len(counts), 1))).reshape(-1, 6, 6)
    tables[:, range(6), range(6)] += hits
    return tables


def lengths(rng: np.random.Generator, num: int, world: World) -> np.ndarray:
    """Utterances of each dialogue, log-normal."""
    spread = np.log1p(world.uneven**2)
    drawn = rng.lognormal(np.log(world.length) - spread / 2, np.sqrt(spread), num)
    return np.maximum(1, np.rint(drawn)).astype(int)


def truth(world: World) -> dict[str, float]:
    """The figures of an endless test set."""
    rng = np.random.default_rng(1)
    ease = world.speakers * rng.standard_normal((100_000, 1))
    return {name: float(value) for name, value in figures(dialogues(rng, 100_000, world, ease).sum(axis=0)).items()}


def by_utterance(tables: np.ndarray) -> Bounds:
    """What ignores dialogues: utterances resampled one by one."""
    cells = tables.sum(axis=0).ravel()
    draws = np.random.default_rng(0).multinomial(cells.sum(), cells / cells.sum(), REPEATS).reshape(-1, 6, 6)
    return {name: np.quantile(drawn, [0.025, 0.975]).tolist() for name, drawn in figures(draws).items()}


def bca(tables: np.ndarray) -> Bounds:
    """Bias-corrected and accelerated bootstrap of whole dialogues (Efron 1987)."""
    num = len(tables)
    draws = np.random.default_rng(0).multinomial(num, np.full(num, 1 / num), REPEATS).astype(float)
    resampled = figures((draws @ tables.reshape(num, -1)).reshape(-1, 6, 6))
    value, without = figures(tables.sum(axis=0)), figures(tables.sum(axis=0) - tables)
    bounds = {}
    for name, drawn in resampled.items():
        moves = without[name].mean() - without[name]
        skew = (moves**3).sum() / (6 * (moves**2).sum() ** 1.5)
        bias = stats.norm.ppf(((drawn < value[name]).mean() + (drawn <= value[name]).mean()) / 2)
        tails = bias + stats.norm.ppf([0.025, 0.975])
        bounds[name] = np.quantile(drawn, stats.norm.cdf(bias + tails / (1 - skew * tails))).tolist()
    return bounds


def whole(interval: Callable[..., Bounds], **settings: int) -> Callable[[np.ndarray], Bounds]:
    """One of the package's intervals over whole groups."""
    return lambda tables: interval(tables, figures, tables.sum(axis=(1, 2)), **settings)


METHODS = {
    "single utterances": by_utterance,
    "dialogues, percentile": lambda tables: cluster_bootstrap(tables, figures, REPEATS),
    "dialogues, BCa": bca,
    "dialogues, t": whole(cluster_t),
}


def held(bounds: Bounds, true: dict[str, float]) -> list[bool]:
    """Whether each interval holds its figure."""
    return [bounds[name][0] <= true[name] <= bounds[name][1] for name in NAMES]


def intervals_of_dialogues(sets: int) -> Iterator[str]:
    """Rows: coverage of every method, by world and number of dialogues."""
    yield "| test sets | dialogues | interval | " + " | ".join(NAMES) + " |\n|---|---|---|---|---|---|---|\n"
    for world, sizes in WORLDS.items():
        true = truth(world)
        for num in sizes:
            rng = np.random.default_rng(2)
            tests = [dialogues(rng, num, world) for _ in range(sets)]
            for name, method in METHODS.items():
                yield row(world.name, num, name, np.mean([held(method(tables), true) for tables in tests], axis=0))


def intervals_of_speakers(sets: int) -> Iterator[str]:
    """Rows: coverage for new speakers, from the speakers and, wrongly, from their dialogues."""
    yield "| test sets | speakers | t interval over | " + " | ".join(NAMES) + " |\n|---|---|---|---|---|---|---|\n"
    true = truth(SPEAKERS)
    for num in (3, 5, 10, 20):
        rng = np.random.default_rng(3)
        found = []
        for _ in range(sets):
            ease = np.repeat(SPEAKERS.speakers * rng.standard_normal((num, 1)), 15, axis=0)
            tables = dialogues(rng, 15 * num, SPEAKERS, ease)
            of_speakers = tables.reshape(num, 15, 6, 6).sum(axis=1)
            found.append([held(whole(cluster_t)(each), true) for each in (of_speakers, tables)])
        for name, shares in zip(("speakers", "dialogues"), np.mean(found, axis=0), strict=True):
            yield row(SPEAKERS.name, num, name, shares)


def intervals_of_fixed_sentences(sets: int) -> Iterator[str]:
    """Rows: coverage where few speakers say fixed sentences, over the units that the corpus has."""
    yield "| test sets | speakers | interval over | " + " | ".join(NAMES) + " |\n|---|---|---|---|---|---|---|\n"
    true = truth(RAVDESS)
    for num in (4, 5, 8, 24):
        rng = np.random.default_rng(6)
        found: dict[str, list[list[bool]]] = {}
        for _ in range(sets):
            own = RAVDESS.common * rng.standard_normal((num, 1)) + RAVDESS.by_emotion * rng.standard_normal((num, 6))
            tables = sentences(rng, num, RAVDESS, own)
            bounds = {
                "single utterances, bootstrap": by_utterance(tables.sum(axis=1)),
                "sentences, t": whole(cluster_t)(tables.sum(axis=0)),
                "speakers, percentile": cluster_bootstrap(tables.sum(axis=1), figures, REPEATS),
                "speakers, t": whole(cluster_t)(tables.sum(axis=1)),
            }
            for name, each in bounds.items():
                found.setdefault(name, []).append(held(each, true))
        for name, shares in found.items():
            yield row(RAVDESS.name, num, name, np.mean(shares, axis=0))


def intervals_of_rare_emotions(sets: int) -> Iterator[str]:
    """Rows: coverage of the F1 of an emotion with so many single utterances of 240, seldom recognised."""
    yield "| utterances | recall | no hit | resampling all 240 | interval of its F1 |\n|---|---|---|---|---|\n"
    for count, recall in itertools.product((4, 16), (0.02, 0.1)):
        rng = np.random.default_rng(7)
        classes = ["rare", "other"]
        shares = np.array([[recall, 1 - recall], [0.02, 0.98]])
        true = float(class_figures(np.array([count, 240 - count])[:, None] * shares)["f1"][0])
        found = []
        for _ in range(sets):
            cells = np.concatenate([rng.multinomial(count, shares[0]), rng.multinomial(240 - count, shares[1])])
            tables = np.repeat(np.eye(4, dtype=np.int64), cells, axis=0).reshape(-1, 2, 2)
            low, high = class_intervals(lambda _, each=tables: each, None, None, classes)["rare"]["this_test_set"]
            old = cluster_bootstrap(tables, lambda sums: {"f1": class_figures(sums)["f1"][:, 0]}, REPEATS)["f1"]
            found.append([cells[0] == 0, old[0] <= true <= old[1], low <= true <= high])
        none, all_of, own = 100 * np.mean(found, axis=0)
        yield f"| {count} | {100 * recall:.0f} | {none:.1f} | {all_of:.1f} | {own:.1f} |\n"


@dataclass(frozen=True)
class Pair:
    """Two systems on 30 dialogues; spreads of the latent score of which the sign says right or wrong."""

    name: str
    trainings: int = 3
    own: float = 0.3  # between dialogues, of each system's own
    seeds: float = 0.05  # between trainings
    shared: float = 0.1  # of a training in a dialogue
    dialogues: int = 30
    world: World = IEMOCAP
    alone: bool = False  # tested, wrongly, as if each utterance were its own group


PAIRS = [
    Pair("3 seeds"),
    Pair("3 seeds, 60 dialogues", dialogues=60),
    Pair("3 seeds, 10 dialogues", dialogues=10),
    Pair("3 seeds of large spread", seeds=0.1),
    Pair("5 seeds", trainings=5),
    Pair("3 seeds, differing by seed alone", own=0.0, seeds=0.0, shared=0.3),
    Pair("1 seed, which makes no difference", trainings=1, seeds=0.0),
    Pair("1 seed of large spread", trainings=1, seeds=0.1),
    Pair("5 speakers", dialogues=5, world=RAVDESS),
    Pair("24 speakers", dialogues=24, world=RAVDESS),
    Pair("24 speakers, 1 seed which makes no difference", trainings=1, seeds=0.0, dialogues=24, world=RAVDESS),
    Pair("the same by single utterances", trainings=1, seeds=0.0, dialogues=24, world=RAVDESS, alone=True),
]


def systems(rng: np.random.Generator, pair: Pair, better: float = 0.0, num: int | None = None) -> list[np.ndarray]:
    """Confusion matrices [trainings, dialogues, 6, 6] of two systems; the first is right more often by `better`."""
    num = num or pair.dialogues
    group = np.repeat(np.arange(num), lengths(rng, num, pair.world))
    size = len(group)
    unit = np.arange(size) if pair.alone else group
    emotion = np.minimum((rng.dirichlet(4 * SHARES, num).cumsum(axis=1)[group] < rng.random((size, 1))).sum(axis=1), 5)
    mistake = np.minimum((MISTAKEN.cumsum(axis=1)[emotion] < rng.random((size, 1))).sum(axis=1), 5)
    ease = (EASE / 2)[emotion] + 0.5 * rng.standard_normal(num)[group] + rng.standard_normal(size)
    found = []
    for ahead in (better, 0.0):
        of_system = ease + ahead + pair.own * rng.standard_normal(num)[group]
        tables = []
        for _ in range(pair.trainings):
            own = pair.seeds * rng.standard_normal() + pair.shared * rng.standard_normal(num)[group]
            answers = np.where(of_system + own + 0.6 * rng.standard_normal(size) > 0, emotion, mistake)
            cells = (unit * 6 + emotion) * 6 + answers
            tables.append(np.bincount(cells, minlength=36 * (unit[-1] + 1)).reshape(-1, 6, 6))
        found.append(np.stack(tables))
    return found


def planted(pair: Pair, difference: float) -> float:
    """How much `better` makes that difference of accuracy."""
    steps = np.linspace(0, 0.8, 5)
    endless = replace(pair, trainings=1, seeds=0.0, alone=False)
    made = [
        np.subtract(*(figures(each.sum(axis=(0, 1)))["accuracy"] for each in systems(rng, endless, step, 6_000)))
        for step, rng in zip(steps, (np.random.default_rng(4) for _ in steps), strict=True)
    ]
    return float(np.interp(difference, np.subtract(made, made[0]), steps))


def paired_tests(sets: int) -> Iterator[str]:
    """Rows: level of the paired test, power at the detectable difference and coverage of the interval (accuracy)."""
    yield (
        "| two systems | " + " | ".join(f"level, {name}" for name in NAMES)
        + " | sd of seeds | detectable | detected | interval holds it |\n|---|---|---|---|---|---|---|---|---|\n"
    )  # fmt: skip
    for pair in PAIRS:
        rng = np.random.default_rng(5)

        def found(better: float, pair: Pair = pair, rng: np.random.Generator = rng) -> dict[str, Comparison]:
            return compare(*systems(rng, pair, better), figures)

        equal = [found(0.0) for _ in range(sets)]
        level = np.mean([[each[name].p_value <= 0.05 for name in NAMES] for each in equal], axis=0)
        seeds = np.mean([each["accuracy"].seed_sd[0] or 0.0 for each in equal])
        detectable = float(np.median([each["accuracy"].detectable or 1 for each in equal]))
        better = planted(pair, detectable)
        apart = [found(better)["accuracy"] for _ in range(sets)]
        power = np.mean([each.p_value <= 0.05 for each in apart])
        cover = np.mean([each.interval[0] <= detectable <= each.interval[1] for each in apart])
        yield (
            f"| {pair.name} | " + " | ".join(f"{100 * share:.1f}" for share in level)
            + f" | {100 * seeds:.1f} | {100 * detectable:.1f} | {100 * power:.1f} | {100 * cover:.1f} |\n"
        )  # fmt: skip


def row(world: str, num: int, name: str, shares: np.ndarray) -> str:
    """One line of coverages in per cent."""
    return f"| {world} | {num} | {name} | " + " | ".join(f"{100 * share:.1f}" for share in shares) + " |\n"


def main() -> None:
    """Print the five tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=1_000, help="test sets of each row")
    sets = parser.parse_args().sets
    for part in (
        intervals_of_dialogues,
        intervals_of_speakers,
        intervals_of_fixed_sentences,
        intervals_of_rare_emotions,
        paired_tests,
    ):
        for line in part(sets):
            sys.stdout.write(line)
            sys.stdout.flush()
        sys.stdout.write("\n")


if __name__ == "__main__":
    main()
