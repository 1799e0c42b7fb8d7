import numpy as np
import pytest

from wavfusion.errors import ConfigError
from wavfusion.metrics import figures
from wavfusion.statistics import cluster_bootstrap


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


def test_pooling_equal_tables_is_the_plain_bootstrap():
    tables = np.random.default_rng(1).integers(0, 3, (30, 3, 3))
    drawn = np.random.default_rng(2).integers(0, 30, (10_000, 30))
    plain = np.quantile(figures(tables[drawn].sum(axis=1))["weighted_f1"], [0.025, 0.975])
    assert cluster_bootstrap(tables, figures)["weighted_f1"] == pytest.approx(plain, abs=5e-3)


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
