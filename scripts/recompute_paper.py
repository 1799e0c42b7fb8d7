"""Recompute what docs/measurements/paper_numbers.md reads out of the paper's own numbers.

The numbers are those of wavfusion/experiments/table1.yaml to table6.yaml; nothing else is read, nothing is trained.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Iterator
from math import sqrt

import numpy as np
from scipy import stats

from wavfusion.study import tables

FIFTH, SMALLEST = 1476, 1475  # of 7380 utterances; the smallest fifth of 7379
SIZES = {
    FIFTH: "a fifth of 7380",
    SMALLEST: "the smallest fifth of 7379",
    1622: "session 5, raw labels",
    1623: "session 5, DialogueRNN's labels",
    7380: "five folds pooled",
}
MELD = 2610  # utterances of its official test part
# In section 3 of the paper: what is better than what, by how many points of accuracy and weighted F1.
CLAIMS = [
    ("best other system, IEMOCAP", ("1", "WavFusion"), ("1", "M2FNet"), (0.84, 0.74), None),
    ("best other system, MELD", ("2", "WavFusion"), ("2", "HAAN-ERC"), (0.43, 0.44), None),
    ("LVC", ("4", "with LVC"), ("4", "without LVC"), (0.63, 0.76), FIFTH),
    ("margin loss", ("5", "lambda = 1"), ("5", "lambda = 0"), (2.64, 2.94), FIFTH),
]
# Tables 4 to 6 without concatenation, lambda = 10 (a collapse) and lambda = 0, which is computed as an eighth.
NEIGHBOURS = [
    ("4", "without LVC"),
    ("5", "lambda = 0.01"),
    ("5", "lambda = 0.1"),
    ("5", "lambda = 1"),
    ("6", "attention 11/1"),
    ("6", "attention 10/2"),
    ("6", "attention 8/4"),
]


read = functools.cache(tables.read_table_file)


def stated(table: str, row: str, figure: str = "accuracy") -> float:
    """Percent, as the paper states it."""
    return {each.name: each.stated for each in read(table).rows}[row][figure]


@functools.cache
def accuracies() -> dict[float, str]:
    """The different accuracies of tables 3 to 6, with the first row that has each."""
    found: dict[float, str] = {}
    for name in "3456":
        for row in read(name).rows:
            if "accuracy" in row.stated:
                found.setdefault(row.stated["accuracy"], row.name)
    return found


def numerator(accuracy: float, n: int) -> int | None:
    """The k with 100 k / n = accuracy to two decimals, if there is one."""
    middle = round(accuracy * n / 100)
    return next((k for k in (middle - 1, middle, middle + 1) if f"{100 * k / n:.2f}" == f"{accuracy:.2f}"), None)


def fitting(*sizes: int) -> list[float]:
    """The accuracies that fit at least one of the sizes."""
    return [each for each in accuracies() if any(numerator(each, n) is not None for n in sizes)]


def chance(*sizes: int) -> float:
    """Share of all numbers of two decimals between the lowest and the highest accuracy that fit one of the sizes."""
    low, high = (round(100 * end(accuracies())) for end in (min, max))
    return float(np.mean([any(numerator(x / 100, n) is not None for n in sizes) for x in range(low, high + 1)]))


def say_sizes() -> Iterator[str]:
    """Which sizes of a test set the printed accuracies are compatible with."""
    values = accuracies()
    yield f"{len(values)} different accuracies in tables 3 to 6; k of n gives 100 k / n in two decimals"
    yield "    n   fit  by chance"
    for n, name in SIZES.items():
        yield f"{n:5}  {len(fitting(n)):2}/{len(values)}  {len(values) * chance(n):4.1f}/{len(values)}  {name}"
    for n in (FIFTH, SMALLEST):
        named = [f"{values[each]} {numerator(each, n)}" for each in fitting(n)]
        yield f"fit {n}: {', '.join(named)}"
    p = chance(FIFTH)
    many = len(fitting(FIFTH))
    yield f"P(>= {many} of {len(values)} fit {FIFTH} by chance) = {stats.binom.sf(many - 1, len(values), p):.1e}"
    both = chance(FIFTH, SMALLEST) ** len(values)
    yield f"P(all fit {SMALLEST} or {FIFTH} by chance) = {both:.1e}; but {SMALLEST} was added after looking"
    pairs = {n: len(fitting(n, n + 1)) for n in range(300, 2201) if n != SMALLEST}
    best = max(pairs, key=pairs.__getitem__)
    yield f"best other pair n, n + 1 from 300 to 2200: {pairs[best]}/{len(values)}, n = {best}"
    others = [(name, stated("1", name)) for name in ("MM-DFN", "M2FNet")]
    fits = [f"{name} {accuracy:.2f} = {numerator(accuracy, 1623)} of 1623" for name, accuracy in others]
    yield f"control: {', '.join(fits)}"


def say_meld() -> Iterator[str]:
    """The same for MELD."""
    own = stated("2", "WavFusion")
    k = numerator(own, MELD)
    assert k is not None
    yield f"MELD {own:.2f} = {k} of {MELD} ({100 * k / MELD:.4f}); by chance 1 number in {1 / chance(MELD):.1f} fits"
    others = [row for row in read("2").rows if not row.extra and row.name != "WavFusion" and "accuracy" in row.stated]
    fit = {row.name: numerator(row.stated["accuracy"], MELD) is not None for row in others}
    yield f"fit {MELD}: {', '.join(name for name in fit if fit[name])}; not: {', '.join(n for n in fit if not fit[n])}"


def say_claims() -> Iterator[str]:
    """Whether the claimed differences are those of the tables, and when a paired test could see them."""
    yield "claim                       accuracy  claimed  weighted F1  claimed  utterances  p < 0.05 if they differ on"
    for name, better, worse, claimed, n in CLAIMS:
        gaps = [round(stated(*better, figure) - stated(*worse, figure), 2) for figure in tables.FIGURES]
        line = f"{name:<26}  {gaps[0]:8.2f}  {claimed[0]:7.2f}  {gaps[1]:11.2f}  {claimed[1]:7.2f}"
        if n is None:
            yield f"{line}           -  (nobody has both systems' answers)"
            continue
        more = round(gaps[0] * n / 100)
        most = disagreements(more)
        yield f"{line}  {more:10}  at most {most} of {n} ({100 * most / n:.1f} %)"


def disagreements(more: int) -> int:
    """On how many utterances one of two systems may alone be right, for `more` of them to be significant (McNemar)."""
    return max(m for m in range(more, more**2, 2) if 2 * stats.binom.sf((m + more) // 2 - 1, m, 0.5) < 0.05)


def say_winner() -> Iterator[str]:
    """How good the best of equal variants would look."""
    for name, rows in (("neighbours", NEIGHBOURS), ("with lambda = 0", [*NEIGHBOURS, ("5", "lambda = 0")])):
        values = [stated(*row) for row in rows]
        mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
        p = best_of_equals((max(values) - mean) / sd, len(values))
        summary = f"mean {mean:.2f}, sd {sd:.2f}, best {max(values):.2f}"
        yield f"{len(values)} {name}: {summary}; p = {p:.2f} if all were equal"
    yield f"sd of an accuracy of {mean:.2f} from the draw of {FIFTH} utterances: {error(mean, FIFTH):.2f}"


def best_of_equals(deviate: float, count: int) -> float:
    """P that the largest of normal draws lies so many of their standard deviations above their mean (Grubbs, 1950)."""
    t = sqrt(count * (count - 2) * deviate**2 / ((count - 1) ** 2 - count * deviate**2))
    return min(1.0, count * float(stats.t.sf(t, count - 2)))


def error(accuracy: float, n: int) -> float:
    """Standard error of an accuracy in percent, were its utterances independent."""
    return sqrt(accuracy * (100 - accuracy) / n)


def say_interval() -> Iterator[str]:
    """How well one test set knows an accuracy."""
    for name, accuracy, n in (("IEMOCAP", stated("1", "WavFusion"), FIFTH), ("MELD", stated("2", "WavFusion"), MELD)):
        half = 1.96 * error(accuracy, n)
        k = numerator(accuracy, n)
        exact = stats.binomtest(k, n).proportion_ci(0.95, "exact")
        yield (
            f"{name} {accuracy:.2f} on {n}: +-{half:.1f} points (95 %, independent utterances); "
            f"exact {100 * exact.low:.1f} to {100 * exact.high:.1f}"
        )
    winner = stated("6", "attention 9/3")
    rows = [(name, row) for name in "456" for row in read(name).rows if "accuracy" in row.stated and not row.extra]
    gaps = [winner - row.stated["accuracy"] for _, row in rows if row.stated["accuracy"] < winner]
    half = 1.96 * error(winner, FIFTH)
    yield f"difference of two such accuracies on different parts of {FIFTH}: +-{sqrt(2) * half:.1f} points"
    below = sum(gap < half for gap in gaps)
    yield f"gaps to the winner in tables 4 to 6 that are below the first of these: {below} of {len(gaps)}"


SECTIONS: dict[str, Callable[[], Iterator[str]]] = {
    "sizes": say_sizes,
    "meld": say_meld,
    "claims": say_claims,
    "winner": say_winner,
    "interval": say_interval,
}


def main() -> None:
    """Print the sections that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section", nargs="*", help=f"of {', '.join(SECTIONS)}; default all")
    for name in parser.parse_args().section or SECTIONS:
        sys.stdout.writelines(f"{line}\n" for line in SECTIONS[name]())


if __name__ == "__main__":
    main()
