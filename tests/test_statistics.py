import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, logit

from wavfusion.errors import ConfigError
from wavfusion.metrics.comparison import (
    Adjusted,
    Comparison,
    Verdict,
    adjust,
    compare,
    detectable_difference,
    judge_better,
)
from wavfusion.metrics.intervals import MANY_GROUPS, cluster_bootstrap, cluster_interval, cluster_t
from wavfusion.metrics.scores import figures


def right_or_wrong(right, per_group):
    """One 2-class table a group: `right` of `per_group` utterances called rightly."""
    right = np.asarray(right)
    tables = np.zeros((len(right), 2, 2), dtype=np.int64)
    tables[:, 0, 0], tables[:, 0, 1] = right, per_group - right
    return tables


def correlated_groups(rng, num_groups=60, per_group=20):
    """Groups that differ: each has its own share right, Beta(7, 3), mean 0.7."""
    return right_or_wrong(rng.binomial(per_group, rng.beta(7, 3, num_groups)), per_group)


def single_utterances(tables):
    """The same utterances, each a group of its own."""
    right, wrong = tables[:, 0, 0].sum(), tables[:, 0, 1].sum()
    return right_or_wrong(np.repeat([1, 0], [right, wrong]), 1)


def test_interval_of_equal_groups_is_one_point():
    interval = cluster_bootstrap(right_or_wrong([3, 3, 3, 3], 4), figures)["accuracy"]
    assert interval == pytest.approx([0.75, 0.75], abs=1e-12)


def test_single_utterances_give_the_binomial_interval():
    interval = cluster_bootstrap(right_or_wrong(np.repeat([1, 0], [700, 300]), 1), figures)["accuracy"]
    half = 1.96 * np.sqrt(0.7 * 0.3 / 1000)
    assert interval == pytest.approx([0.7 - half, 0.7 + half], abs=3e-3)


def test_pooling_equal_tables_is_the_ordinary_bootstrap():
    tables = np.random.default_rng(1).integers(0, 3, (30, 3, 3))
    drawn = np.random.default_rng(2).integers(0, 30, (10_000, 30))
    ordinary = np.quantile(figures(tables[drawn].sum(axis=1))["weighted_f1"], [0.025, 0.975])
    assert cluster_bootstrap(tables, figures)["weighted_f1"] == pytest.approx(ordinary, abs=5e-3)


def test_order_of_groups_changes_nothing():
    tables = np.random.default_rng(3).integers(0, 5, (40, 4, 4))
    assert cluster_bootstrap(tables[::-1], figures, repeats=2_500) == cluster_bootstrap(tables, figures, repeats=2_500)


def test_interval_over_correlated_groups_holds_the_truth_19_times_in_20():
    rng = np.random.default_rng(4)
    tries = [cluster_bootstrap(correlated_groups(rng), figures, repeats=500)["accuracy"] for _ in range(300)]
    assert 0.91 <= np.mean([low <= 0.7 <= high for low, high in tries]) <= 0.98


def test_ignoring_correlated_groups_holds_the_truth_too_rarely():
    rng = np.random.default_rng(5)
    tries = [
        cluster_bootstrap(single_utterances(correlated_groups(rng)), figures, repeats=500)["accuracy"]
        for _ in range(300)
    ]
    assert np.mean([low <= 0.7 <= high for low, high in tries]) < 0.85


def test_one_group_has_no_interval():
    with pytest.raises(ConfigError, match="at least 2 groups.*found 1"):
        cluster_bootstrap(right_or_wrong([3], 4), figures)


def test_no_resample_is_refused():
    with pytest.raises(ConfigError, match="repeats >= 1, found 0"):
        cluster_bootstrap(right_or_wrong([3, 2], 4), figures, repeats=0)


def sizes_of(tables):
    return tables.sum(axis=(1, 2))


def accuracy(tables, interval=cluster_interval):
    return interval(tables, figures, sizes_of(tables))["accuracy"]


def test_resampling_is_that_of_scipy():
    tables = correlated_groups(np.random.default_rng(6))
    shares = tables[:, 0, 0] / 20
    theirs = stats.bootstrap((shares,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    assert cluster_bootstrap(tables, figures)["accuracy"] == pytest.approx([theirs.low, theirs.high], abs=4e-3)


def test_t_interval_of_equal_groups_is_the_ordinary_one_on_the_logit_scale():
    tables = correlated_groups(np.random.default_rng(7), num_groups=12)
    shares = tables[:, 0, 0] / 20
    low, high = stats.ttest_1samp(shares, 0).confidence_interval()
    mean = shares.mean()
    half = (high - low) / 2 / (mean * (1 - mean))
    assert accuracy(tables, cluster_t) == pytest.approx(expit(logit(mean) + np.array([-half, half])), rel=1e-9)


def test_large_groups_leave_fewer_degrees_of_freedom():
    """Sizes 1, 1 and 2: (1 + 1 + 4)^2 / (1 + 1 + 16) = 2 effective groups, so one degree."""
    tables = np.random.default_rng(8).integers(1, 9, (3, 2, 2))
    narrow, wide = (
        np.diff(logit(cluster_t(tables, figures, np.array(sizes))["uar"])) for sizes in ([1, 1, 1], [1, 1, 2])
    )
    assert wide / narrow == pytest.approx(stats.t.ppf(0.975, 1) / stats.t.ppf(0.975, 2))


def test_a_group_that_outweighs_all_others_tells_nothing():
    tables = right_or_wrong([3, 2, 4], 5)
    assert cluster_t(tables, figures, np.array([1, 1, 10**6]))["accuracy"] == pytest.approx([0, 1])


@pytest.mark.parametrize(("num_groups", "which"), [(MANY_GROUPS - 1, cluster_t), (MANY_GROUPS, None)])
def test_the_bootstrap_serves_many_groups_and_t_few(num_groups, which):
    tables = correlated_groups(np.random.default_rng(9), num_groups)
    expected = accuracy(tables, which) if which else cluster_bootstrap(tables, figures)["accuracy"]
    assert accuracy(tables) == expected


@pytest.mark.parametrize("num_groups", [2, 30, 300])
@pytest.mark.parametrize("right", [0, 5])
def test_all_right_or_all_wrong_is_as_uncertain_as_that_many_trials(num_groups, right):
    """The bootstrap made of it a single point, as if no other test could go otherwise."""
    theirs = stats.binomtest(num_groups if right else 0, num_groups).proportion_ci(method="exact")
    assert accuracy(right_or_wrong([right] * num_groups, 5)) == pytest.approx([theirs.low, theirs.high])


def test_one_group_may_be_anything():
    assert accuracy(right_or_wrong([3], 4)) == [0, 1]


def test_order_of_groups_changes_no_t_interval():
    tables = np.random.default_rng(10).integers(0, 5, (20, 4, 4))
    other = cluster_t(tables[::-1], figures, sizes_of(tables[::-1]))["macro_f1"]
    assert other == pytest.approx(cluster_t(tables, figures, sizes_of(tables))["macro_f1"], rel=1e-9)


@pytest.mark.parametrize("num_groups", [5, 30])
def test_t_interval_of_few_correlated_groups_holds_the_truth_19_times_in_20(num_groups):
    rng = np.random.default_rng(11)
    tries = [accuracy(correlated_groups(rng, num_groups), cluster_t) for _ in range(600)]
    assert 0.925 <= np.mean([low <= 0.7 <= high for low, high in tries]) <= 0.98


def test_the_bootstrap_of_five_groups_holds_the_truth_too_rarely():
    rng = np.random.default_rng(12)
    tries = [cluster_bootstrap(correlated_groups(rng, 5), figures, repeats=300)["accuracy"] for _ in range(200)]
    assert np.mean([low <= 0.7 <= high for low, high in tries]) < 0.9


def test_speakers_hold_the_truth_where_their_dialogues_do_not():
    """Ten speakers of six dialogues each: what is common to a speaker is lost between dialogues."""
    rng = np.random.default_rng(13)
    held = np.zeros(2)
    for _ in range(300):
        dialogues = right_or_wrong(rng.binomial(20, np.repeat(rng.beta(7, 3, 10), 6)), 20)
        speakers = dialogues.reshape(10, 6, 2, 2).sum(axis=1)
        held += [low <= 0.7 <= high for low, high in (accuracy(speakers, cluster_t), accuracy(dialogues, cluster_t))]
    of_speakers, of_dialogues = held / 300
    assert of_dialogues < 0.8 < 0.91 <= of_speakers <= 0.985


def two_systems(rng, num_groups=30, trainings=(1, 1), better=0.0, seed_spread=0.0, per_group=20):
    """Right or wrong of two systems in groups that are hard for both, and for each in its own way."""
    hard = rng.normal(0, 0.5, num_groups)
    systems = []
    for num_trainings, shift in zip(trainings, (better, 0.0), strict=True):
        own = 0.8 + shift + hard + rng.normal(0, 0.3, num_groups)
        seeds = rng.normal(0, seed_spread, (num_trainings, 1))
        right = rng.binomial(per_group, expit(own + seeds))
        systems.append(right_or_wrong(right.ravel(), per_group).reshape(num_trainings, num_groups, 2, 2))
    return systems


def shares(system):
    return system[:, :, 0, 0].mean(axis=0) / system[0, 0].sum()


def test_p_and_interval_of_a_difference_are_those_of_the_paired_t_test_of_scipy():
    one, two = two_systems(np.random.default_rng(18), num_groups=15, per_group=200)
    theirs = stats.ttest_rel(shares(one), shares(two))
    low, high = theirs.confidence_interval()
    found = compare(one, two, figures)["accuracy"]
    assert [found.p_value, *found.interval] == pytest.approx([theirs.pvalue, low, high])


def test_the_standard_error_is_that_of_leaving_each_group_out_by_a_loop():
    one, two = np.random.default_rng(15).integers(0, 6, (2, 6, 3, 3))
    left = []
    for i in range(6):
        rest = [j for j in range(6) if j != i]
        left.append(figures(one[rest].sum(0))["macro_f1"] - figures(two[rest].sum(0))["macro_f1"])
    expected = np.sqrt(5 / 6 * sum((each - np.mean(left)) ** 2 for each in left))
    assert compare(one[None], two[None], figures)["macro_f1"].standard_error == pytest.approx(expected)


def test_groups_in_which_the_systems_agree_give_no_degree_of_freedom():
    """Five single utterances of 300 in favour of one system: normal theory says p = 0.025, the sign test 0.0625."""
    right = np.repeat([[1, 1], [1, 0]], [295, 5], axis=0).T
    one, two = (right_or_wrong(each, 1)[None] for each in right)
    found = compare(one, two, figures)["accuracy"]
    assert (found.degrees, found.p_value) == (4, pytest.approx(2 * stats.t.sf(np.sqrt(5), 4), rel=0.02))
    assert stats.binomtest(5, 5).pvalue < found.p_value


@st.composite
def worlds(draw):
    """Two systems, of up to three trainings each, in groups of any size, alike, apart or all right."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups, classes = draw(st.integers(1, 40)), draw(st.integers(2, 4))
    truth = rng.integers(0, draw(st.integers(2, 9)), (groups, classes))
    truth[0, 0] += 1
    skills = draw(st.tuples(*2 * [st.sampled_from([0.0, 0.3, 0.5, 0.55, 0.9, 1.0])]))
    spread = draw(st.sampled_from([0.0, 0.2]))
    systems = []
    for skill in skills:
        trainings = []
        for _ in range(draw(st.integers(1, 3))):
            hits = rng.binomial(truth, np.clip(skill + spread * rng.standard_normal((groups, 1)), 0, 1))
            table = np.zeros((groups, classes, classes), dtype=np.int64)
            table[:, range(classes), range(classes)] = hits
            table[:, range(classes), (np.arange(classes) + 1) % classes] += truth - hits
            trainings.append(table)
        systems.append(np.stack(trainings))
    return systems


@settings(max_examples=200, deadline=None)
@given(worlds())
def test_an_interval_excludes_zero_exactly_when_p_is_below_five_percent(systems):
    """The page said: accuracy +3.3, p 0.1227, 95 % +0.1 to +6.6."""
    for found in compare(*systems, figures).values():
        low, high = found.interval
        assert (low > 0 or high < 0) == (found.p_value < 0.05)
        assert -1 <= low <= found.difference <= high <= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(worlds(), min_size=1, max_size=5))
def test_so_does_an_adjusted_one_and_the_verdict_follows_it(several):
    compared = [compare(*systems, figures)["uar"] for systems in several]
    for found, of_all in zip(compared, adjust(compared), strict=True):
        low, high = of_all.interval
        assert (low > 0 or high < 0) == (of_all.p_value < 0.05)
        assert low <= found.interval[0] + 1e-12 and found.interval[1] <= high + 1e-12
        if (verdict := judge_better(found, of_all)[0]) is Verdict.SUPPORTED:
            assert low > 0 and found.num_groups >= 5
        assert (verdict is Verdict.NONE) == (found.num_groups < 5)


def test_the_difference_is_that_of_the_means_over_trainings():
    one, two = two_systems(np.random.default_rng(17), trainings=(3, 2))
    expected = shares(one).mean() - shares(two).mean()
    assert compare(one, two, figures)["accuracy"].difference == pytest.approx(expected)


@pytest.mark.parametrize("margin", [0.02, 0.1])
def test_p_of_equality_is_the_larger_of_two_one_sided_t_tests(margin):
    one, two = two_systems(np.random.default_rng(19), num_groups=15, per_group=200)
    apart = shares(one) - shares(two)
    above = stats.ttest_1samp(apart, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(apart, margin, alternative="less").pvalue
    assert compare(one, two, figures)["accuracy"].p_equal(margin) == pytest.approx(max(above, below))


def test_spread_of_seeds_stands_apart():
    one, two = two_systems(np.random.default_rng(20), trainings=(4, 1))
    expected = np.std(one[:, :, 0, 0].mean(axis=1) / 20, ddof=1)
    assert compare(one, two, figures)["accuracy"].seed_sd == [pytest.approx(expected), None]


def test_the_seeds_of_one_system_and_the_order_of_groups_change_nothing_by_their_order():
    one, two = two_systems(np.random.default_rng(21), trainings=(3, 2), seed_spread=0.3)
    orders = (one, two), (one[::-1, ::-1], two[:, ::-1])
    own, other = (compare(*systems, figures)["uar"] for systems in orders)
    assert [other.p_value, *other.interval] == pytest.approx([own.p_value, *own.interval], abs=1e-9)


def test_comparing_twice_gives_the_same():
    systems = two_systems(np.random.default_rng(22), trainings=(2, 2), seed_spread=0.2)
    assert compare(*systems, figures) == compare(*systems, figures)


def test_a_system_does_not_differ_from_itself():
    one, _ = two_systems(np.random.default_rng(23), num_groups=20)
    found = compare(one, one, figures)["accuracy"]
    unseen = 1 - 0.025 ** (1 / 20)
    assert [found.difference, found.p_value, *found.interval] == pytest.approx([0, 1, -unseen, unseen])


def test_p_of_equal_systems_is_uniform():
    rng = np.random.default_rng(24)
    tables = rng.integers(0, 6, (300, 2, 1, 8, 3, 3))
    found = [compare(*systems, figures)["macro_f1"].p_value for systems in tables]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_other_seeds_of_one_system_are_seldom_found_to_be_another():
    """Two sets of trainings of one system: counts summed to one training each see a winner."""
    rng = np.random.default_rng(25)
    found = np.zeros(2)
    for _ in range(150):
        one, two = two_systems(rng, trainings=(3, 3), seed_spread=0.3)
        summed = [each.sum(axis=0, keepdims=True) for each in (one, two)]
        both = compare(one, two, figures), compare(*summed, figures)
        found += [each["accuracy"].p_value <= 0.05 for each in both]
    level, of_these_trainings = found / 150
    assert level < 0.1 < 0.2 < of_these_trainings


def test_detectable_difference_has_a_power_of_80_percent():
    power = stats.nct.sf(stats.t.ppf(0.975, 29), 29, detectable_difference(0.02, 29.0) / 0.02)
    assert power == pytest.approx(0.8, abs=0.01)


def test_the_detectable_difference_is_detected_4_times_in_5():
    rng = np.random.default_rng(26)
    detectable = np.median([compare(*two_systems(rng), figures)["accuracy"].detectable for _ in range(60)])

    def planted(better):
        one, two = two_systems(rng, 30_000, better=better)
        return shares(one).mean() - shares(two).mean()

    better = np.interp(detectable, [0, planted(0.4), planted(0.8)], [0, 0.4, 0.8])
    found = [compare(*two_systems(rng, better=better), figures)["accuracy"].p_value for _ in range(250)]
    assert 0.73 <= np.mean(np.array(found) <= 0.05) <= 0.87


@pytest.mark.parametrize(("num_groups", "detectable"), [(4, False), (5, True)])
def test_fewer_than_five_groups_can_detect_nothing(num_groups, detectable):
    one, two = two_systems(np.random.default_rng(27), num_groups=num_groups)
    assert (compare(one, two, figures)["accuracy"].detectable is not None) == detectable


def test_a_single_group_tells_nothing_of_a_difference():
    """`reproduce --smoke` with one test dialogue trained everything and then ended with exit status 2."""
    found = compare(*two_systems(np.random.default_rng(28), num_groups=1, trainings=(3, 1)), figures)["accuracy"]
    assert (found.interval, found.p_value > 0.5, found.detectable) == ([-1, 1], True, None)
    assert judge_better(found, *adjust([found]))[0] is Verdict.NONE


def with_p(p_value):
    return found(float(stats.t.isf(p_value / 2, 30)) * 0.01)


def holm(p_values):
    return [each.p_value for each in adjust([replace(with_p(0.5), p_value=p) for p in p_values])]


def test_holm_counted_by_hand():
    adjusted = adjust([with_p(p) for p in (0.01, 0.04, 0.03, 0.005)])
    assert [each.p_value for each in adjusted] == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_an_adjusted_interval_is_at_the_level_of_its_step():
    """Of p 0.01 and 0.03 the first is tested at 0.05 / 2, the second at 0.05."""
    for each, level in zip(adjust([with_p(0.01), with_p(0.03)]), (0.025, 0.05), strict=True):
        low, high = each.interval
        assert (high - low) / 2 == pytest.approx(stats.t.isf(level / 2, 30) * 0.01)


def test_ps_of_zero_are_adjusted_too():
    assert holm([0.0, 0.0, 1.0]) == [0.0, 0.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_the_p_and_that_of_bonferroni(p_values):
    adjusted = np.array(holm(p_values))
    assert ((p_values <= adjusted) & (adjusted <= np.minimum(1, len(p_values) * np.array(p_values)))).all()


def found(difference, error=0.01, p_value=None):
    half = stats.t.ppf(0.975, 30) * error
    p = float(2 * stats.t.sf(abs(difference) / error, 30)) if p_value is None else p_value
    interval = [difference - half, difference + half]
    return Comparison(difference, interval, p, 0.029, error, 30.0, error, [None, None], 31, "speaker")


@pytest.mark.parametrize(
    ("comparison", "claim", "verdict", "reason"),
    [
        (found(0.03), {}, Verdict.SUPPORTED, "better: +3.0 points"),
        (found(-0.03), {}, Verdict.REFUTED, "worse: -3.0 points"),
        (found(0.015), {}, Verdict.UNDECIDABLE,
         "better or not: +1.5 points [-0.5, +3.5], p = 0.14; detectable: 2.9 points"),
        (found(0.03), {"p_value": 0.06}, Verdict.UNDECIDABLE, "p = 0.06"),
        (found(0.001, error=0.005), {}, Verdict.REFUTED, "equal within 1.5 points"),
        (found(0.001), {}, Verdict.UNDECIDABLE, "better or not"),
        (found(0.01, error=0.001), {}, Verdict.SUPPORTED, "better:"),
        (replace(found(0.0), detectable=None), {}, Verdict.UNDECIDABLE, "detectable: nothing"),
        (replace(found(0.03), num_groups=4), {}, Verdict.NONE,
         "too few speakers for a verdict (4; 5 are needed): +3.0 points"),
    ],
)  # fmt: skip
def test_a_claim_to_be_better_is_judged(comparison, claim, verdict, reason):
    judged, why = judge_better(comparison, Adjusted(claim.get("p_value", comparison.p_value), comparison.interval))
    assert (judged, reason in why) == (verdict, True), why


def test_verdicts_are_their_words():
    words = ["supported", "refuted", "undecidable with this much data", "no verdict"]
    assert [str(verdict) for verdict in Verdict] == words


@pytest.mark.slow
def test_the_simulation_prints_its_five_tables():
    script = Path(__file__).parents[1] / "scripts" / "simulate_statistics.py"
    done = subprocess.run([sys.executable, script, "--sets", "3"], capture_output=True, text=True, timeout=500)
    rows = [sum(line.startswith("|") for line in table.splitlines()) for table in done.stdout.split("\n\n")]
    assert rows == [2 + 11 * 4, 2 + 4 * 2, 2 + 4 * 4, 2 + 4, 2 + 12, 0], done.stderr
