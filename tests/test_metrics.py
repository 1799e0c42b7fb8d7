import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from scipy.stats import ttest_1samp
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_recall_fscore_support, recall_score
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from wavfusion.errors import ConfigError
from wavfusion.metrics.clusters import Clusters, choose_clusters
from wavfusion.metrics.intervals import cluster_t
from wavfusion.metrics.scores import (
    class_figures,
    class_intervals,
    confusion_matrix,
    confusions_by_group,
    figures,
    independent_speakers,
    score,
)

CLASSES = ["happy", "sad", "neutral", "angry", "excited", "frustrated"]

names = st.sampled_from(CLASSES)
pairs = st.lists(st.tuples(names, names), min_size=1, max_size=60)


def ids(emotions):
    return np.array([CLASSES.index(emotion) for emotion in emotions])


def table(some_pairs):
    truth, predicted = zip(*some_pairs, strict=True)
    return truth, predicted, confusion_matrix(ids(truth), ids(predicted), len(CLASSES))


@given(pairs)
def test_confusion_matrix_is_that_of_scikit_learn(some_pairs):
    truth, predicted, confusion = table(some_pairs)
    assert confusion.tolist() == sklearn_confusion_matrix(truth, predicted, labels=CLASSES).tolist()


@given(pairs)
def test_figures_are_those_of_scikit_learn(some_pairs):
    truth, predicted, confusion = table(some_pairs)
    present = [emotion for emotion in CLASSES if emotion in truth]
    expected = {
        "accuracy": accuracy_score(truth, predicted),
        "weighted_f1": f1_score(truth, predicted, labels=CLASSES, average="weighted", zero_division=0),
        "macro_f1": f1_score(truth, predicted, labels=CLASSES, average="macro", zero_division=0),
        "uar": recall_score(truth, predicted, labels=present, average="macro", zero_division=0),
    }
    assert {name: float(value) for name, value in figures(confusion).items()} == pytest.approx(expected, abs=1e-12)


@given(pairs)
def test_class_figures_are_those_of_scikit_learn(some_pairs):
    truth, predicted, confusion = table(some_pairs)
    expected = precision_recall_fscore_support(truth, predicted, labels=CLASSES, zero_division=0)[:3]
    np.testing.assert_allclose(np.stack(list(class_figures(confusion).values())), np.stack(expected), atol=1e-12)


@settings(max_examples=25)
@given(pairs, st.randoms(use_true_random=False))
def test_order_of_utterances_changes_nothing(some_pairs, random):
    rows = [(truth, predicted, f"dialogue {i % 7}") for i, (truth, predicted) in enumerate(some_pairs)]
    shuffled = random.sample(rows, len(rows))
    first, second = (score(t, p, CLASSES, groups=g) for t, p, g in (zip(*r, strict=True) for r in (rows, shuffled)))
    assert first == second


def test_figures_of_a_stack_are_those_of_each_table():
    stack = np.random.default_rng(0).integers(0, 9, (5, 4, 4))
    one_by_one = {name: [float(figures(one)[name]) for one in stack] for name in ("weighted_f1", "macro_f1", "uar")}
    assert {name: figures(stack)[name].tolist() for name in one_by_one} == one_by_one


def test_a_table_counted_by_hand():
    truth = ["happy", "happy", "happy", "happy", "sad", "sad", "neutral"]
    predicted = ["happy", "happy", "happy", "sad", "sad", "neutral", "neutral"]
    result = score(truth, predicted, CLASSES[:3])
    # F1: happy 2*3/(3+4), sad 2*1/(2+2), neutral 2*1/(2+1)
    assert [result[name] for name in ("accuracy", "weighted_f1", "macro_f1", "uar")] == pytest.approx(
        [5 / 7, (4 * 6 / 7 + 2 * 1 / 2 + 2 / 3) / 7, (6 / 7 + 1 / 2 + 2 / 3) / 3, (3 / 4 + 1 / 2 + 1) / 3]
    )


def test_an_absent_class_that_is_predicted_does_not_count_in_uar():
    """scikit-learn's macro recall gives 0.5 here and its balanced accuracy 0.75: two readings of one name."""
    truth, predicted = ["happy", "happy", "sad", "sad"], ["happy", "neutral", "sad", "sad"]
    assert score(truth, predicted, CLASSES[:3])["uar"] == pytest.approx(0.75)


def test_an_absent_class_counts_as_zero_in_macro_f1():
    assert score(["happy", "sad"], ["happy", "sad"], CLASSES[:4])["macro_f1"] == pytest.approx(0.5)


def test_a_perfect_score_is_one_everywhere():
    result = score(CLASSES, CLASSES, CLASSES)
    assert [result[name] for name in ("accuracy", "weighted_f1", "macro_f1", "uar")] == [1.0] * 4


def test_rows_of_the_confusion_are_the_truth():
    assert score(["happy", "happy"], ["sad", "sad"], ["happy", "sad"])["confusion"] == [[0, 2], [0, 0]]


def test_per_class_follows_the_order_of_the_classes():
    assert list(score(["sad"], ["sad"], CLASSES)["per_class"]) == CLASSES


def test_figures_come_in_the_order_of_the_contract():
    probabilities = np.full((2, 6), 1 / 6)
    result = score(["sad", "happy"], ["sad", "sad"], CLASSES, probabilities=probabilities)
    assert list(result) == [
        *("n", "accuracy", "weighted_f1", "macro_f1", "uar", "nll", "ece", "per_class", "confusion", "interval"),
        *("clusters", "num_tested_classes", "macro_f1_tested"),
    ]


def test_result_survives_json_unchanged():
    rng = np.random.default_rng(0)
    truth, predicted = rng.choice(CLASSES, (2, 50)).tolist()
    result = score(truth, predicted, CLASSES, probabilities=rng.dirichlet(np.ones(6), 50))
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_equal_seeds_give_equal_intervals():
    rng = np.random.default_rng(0)
    truth, predicted = rng.choice(CLASSES, (2, 80)).tolist()
    assert score(truth, predicted, CLASSES, seed=3) == score(truth, predicted, CLASSES, seed=3)


def test_interval_holds_the_figure_it_belongs_to():
    rng = np.random.default_rng(0)
    truth = rng.choice(CLASSES, 500).tolist()
    predicted = [emotion if rng.random() < 0.6 else str(rng.choice(CLASSES)) for emotion in truth]
    result = score(truth, predicted, CLASSES, groups=[i // 25 for i in range(500)])
    bounds = {name: interval["this_test_set"] for name, interval in result["interval"].items()}
    assert all(low < result[name] < high for name, (low, high) in bounds.items())


def test_dialogues_that_are_right_or_wrong_as_a_whole_widen_the_interval():
    truth, predicted = ["happy"] * 100, ["happy"] * 50 + ["sad"] * 50

    def width(groups):
        low, high = score(truth, predicted, CLASSES, groups=groups)["interval"]["accuracy"]["this_test_set"]
        return high - low

    assert width([i // 10 for i in range(100)]) > 2.5 * width(None)


def test_an_utterance_without_a_dialogue_is_its_own_group():
    truth, predicted = ["happy"] * 40, ["happy"] * 30 + ["sad"] * 10
    assert score(truth, predicted, CLASSES, groups=[None] * 40) == score(truth, predicted, CLASSES)


def test_one_dialogue_tells_nothing_about_others():
    interval = score(["happy", "sad"], ["happy", "happy"], CLASSES, groups=["a", "a"])["interval"]
    assert interval["uar"] == {"this_test_set": [0.0, 1.0], "new_speakers": None}


def test_interval_of_new_speakers_is_that_of_their_matrices():
    rng = np.random.default_rng(4)
    truth, predicted = rng.choice(CLASSES, (2, 90)).tolist()
    speakers = [f"s{i % 5}" for i in range(90)]
    tables = confusions_by_group(truth, predicted, CLASSES, speakers)
    expected = cluster_t(tables, figures, tables.sum((1, 2)))["weighted_f1"]
    found = score(truth, predicted, CLASSES, speakers=speakers)["interval"]["weighted_f1"]["new_speakers"]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("speakers", [["a", "b", "c", "d"] * 10, ["a", "b", "c", "d", "e", None, "g", "h"] * 5])
def test_four_speakers_or_unknown_ones_tell_nothing_about_others(speakers):
    """Of three pairs who talk with each other: 2.7 to 94.7 %."""
    truth, predicted = np.random.default_rng(5).choice(CLASSES, (2, 40)).tolist()
    assert score(truth, predicted, CLASSES, speakers=speakers)["interval"]["uar"]["new_speakers"] is None


def test_speakers_who_talk_with_each_other_count_as_one():
    dialogues = ["s1a", "s1a", "s1b", "s1b", "s2a", "s2a", "s3", "s3", None, None]
    speakers = ["f1", "m1", "m1", "f1", "f2", "m2", "f3", "m3", "alone", "m3"]
    assert independent_speakers(dialogues, speakers) == ["f1"] * 4 + ["f2"] * 2 + ["f3"] * 2 + ["alone", "f3"]


def test_chains_of_acquaintance_are_followed_in_any_order():
    met = [
        ("x", "a"),
        ("x", "b"),
        ("y", "c"),
        ("y", "d"),
        ("z", "d"),
        ("z", "b"),
        *((str(i), str(i)) for i in range(5)),
    ]
    for order in (1, -1):
        apart = independent_speakers(*zip(*met[::order], strict=True))
        assert apart is not None and len(set(apart)) == 6


def test_friends_who_all_talk_with_each_other_count_each_for_want_of_better():
    assert independent_speakers(["a", "a", "b", "b", "c"], ["x", "y", "y", "z", "q"]) == ["x", "y", "y", "z", "q"]
    assert independent_speakers(["a"], [None]) is None and independent_speakers(None, ["x", "y"]) == ["x", "y"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12)), min_size=1, max_size=40))
def test_independent_speakers_are_the_parts_of_the_graph_of_dialogues(met):
    dialogues, speakers = ([str(pair[i]) for pair in met] for i in (0, 1))
    names = sorted(set(speakers))
    links = np.zeros((len(names), len(names)))
    for one, other in itertools.product(range(len(met)), repeat=2):
        if dialogues[one] == dialogues[other]:
            links[names.index(speakers[one]), names.index(speakers[other])] = 1
    part = connected_components(links)[1]
    wanted = [part[names.index(name)] for name in speakers]
    if 2 * np.bincount(part).max() > len(names):
        wanted = speakers
    found = independent_speakers(dialogues, speakers)
    assert found is not None and len(set(zip(found, wanted, strict=True))) == len(set(found)) == len(set(wanted))


def names_of(prefix, sizes):
    return [f"{prefix}{i}" for i, size in enumerate(sizes) for _ in range(size)]


RAVDESS = {  # four actors say two sentences thirty times each, every time in a file of its own
    "dialogue": [None] * 240,
    "recording": names_of("file", [1] * 240),
    "speaker": names_of("actor", [60] * 4),
    "text": ["kids", "dogs"] * 120,
}


@pytest.mark.parametrize(
    ("changed", "unit", "number"),
    [
        ({}, "speaker", 4),
        ({"dialogue": names_of("d", [1] * 240)}, "speaker", 4),
        ({"dialogue": names_of("d", [1] * 236 + [2, 2])}, "speaker", 4),
        ({"dialogue": names_of("d", [10] * 24)}, "dialogue", 24),
        ({"dialogue": names_of("d", [10] * 3) + [None] * 210}, "speaker", 4),
        ({"recording": names_of("file", [8] * 30)}, "recording", 30),
        ({"speaker": [None] * 240}, "text", 2),
        ({"speaker": names_of("s", [1] * 240)}, "text", 2),
        ({"speaker": [None] * 240, "text": names_of("word", [2] * 20 + [1] * 200)}, "utterance", 240),
        ({"speaker": names_of("s", [2] * 60 + [1] * 120), "text": [None] * 240}, "speaker", 180),
    ],
)
def test_clusters_are_of_the_smallest_unit_that_is_independent(changed, unit, number):
    """RAVDESS had 240 groups of one utterance each, of four actors."""
    found = choose_clusters(RAVDESS | changed)
    assert (found.unit, found.n) == (unit, number)


columns = st.lists(st.tuples(*4 * [st.one_of(st.none(), st.integers(0, 6).map(str))]), min_size=1, max_size=30)


@given(columns)
def test_clusters_are_never_smaller_than_a_column_that_was_passed_over(rows):
    by_unit = dict(zip(("dialogue", "recording", "speaker", "text"), zip(*rows, strict=True), strict=True))
    counts = {
        unit: len({("alone", i) if name is None else name for i, name in enumerate(names)})
        for unit, names in by_unit.items()
    }
    found = choose_clusters(by_unit)
    assert found.n == counts.get(found.unit, len(rows))
    halves = [unit for unit, count in counts.items() if 2 * count <= len(rows)]
    if halves:
        assert found.unit == halves[0]
    else:
        assert found.n == min(counts[unit] for unit in ("dialogue", "recording", "speaker"))


def test_clusters_stand_in_the_figures_by_name_and_number():
    truth = ["sad"] * 240
    found = score(truth, truth, CLASSES, RAVDESS["speaker"], speakers=RAVDESS["speaker"], unit="speaker")
    assert found["clusters"] == {"unit": "speaker", "n": 4, "independent_speakers": 4}
    assert score(truth, truth, CLASSES)["clusters"] == {"unit": "utterance", "n": 240, "independent_speakers": None}
    assert Clusters("dialogue", ["a", None, None, "a"]).n == 3


def test_an_emotion_that_was_never_right_is_as_uncertain_as_its_own_utterances():
    """F1 of an emotion with 0 of 16 right was 0.0 to 3.0 %: as if all 240 utterances had been trials of it."""
    truth, predicted = ["sad"] * 16 + ["happy"] * 224, ["happy"] * 240
    tables = confusions_by_group(truth, predicted, CLASSES, None)
    found = class_intervals(lambda _: tables, None, None, CLASSES)
    high = 1 - 0.025 ** (1 / 16)  # Clopper and Pearson's for 0 of 16
    assert found["sad"]["this_test_set"] == pytest.approx([0, 2 * high / (1 + high)])
    assert found["angry"]["this_test_set"] == [0, 1]


def test_the_interval_of_f1_is_that_of_its_odds_over_the_groups_that_hold_the_emotion():
    """F1's odds are twice those of the hits among all that is of the emotion or predicted as it."""
    rng = np.random.default_rng(8)
    truth = rng.choice(CLASSES[:4], 300).tolist()
    predicted = [each if rng.random() < 0.5 else str(rng.choice(CLASSES[:4])) for each in truth]
    groups = [f"d{i // 15}" for i in range(300)]
    tables = confusions_by_group(truth, predicted, CLASSES, groups)
    found = class_intervals(lambda _: tables, groups, None, CLASSES)["sad"]["this_test_set"]
    sizes = tables[:, 1].sum(1) + tables[:, :, 1].sum(1) - tables[:, 1, 1]
    expected = cluster_t(tables, lambda each: {"f1": class_figures(each)["f1"][..., 1]}, sizes)["f1"]
    assert found == pytest.approx(expected, rel=1e-3)  # leaving one out is linear in the first order only


@given(pairs)
def test_the_interval_of_f1_holds_it(some_pairs):
    truth, predicted, confusion = table(some_pairs)
    tables = confusions_by_group(truth, predicted, CLASSES, None)
    for name, f1 in zip(CLASSES, class_figures(confusion)["f1"], strict=True):
        low, high = class_intervals(lambda _: tables, None, None, CLASSES)[name]["this_test_set"]
        assert low - 1e-12 <= f1 <= high + 1e-12


def test_one_rule_for_recall_and_f1_of_emotions_that_were_not_tested():
    """UAR was the mean of four emotions and macro F1 of eight, and nothing said so."""
    truth, predicted = ["happy", "happy", "sad", "sad"], ["happy", "neutral", "sad", "sad"]
    found = score(truth, predicted, CLASSES)
    assert (found["uar"], found["macro_f1"]) == pytest.approx((0.75, (2 / 3 + 1) / 6))
    assert (found["num_tested_classes"], found["macro_f1_tested"]) == (2, pytest.approx((2 / 3 + 1) / 2))
    expected = f1_score(truth, predicted, labels=["happy", "sad"], average="macro")
    assert found["macro_f1_tested"] == pytest.approx(expected)


def test_interval_of_nll_over_equal_dialogues_is_a_t_interval():
    """Small beside its largest value of 36, the loss is on a logarithmic scale."""
    rng = np.random.default_rng(6)
    truth = rng.choice(CLASSES, 200).tolist()
    probabilities = rng.dirichlet(np.ones(6), 200)
    found = score(truth, truth, CLASSES, [i // 10 for i in range(200)], probabilities)
    losses = -np.log(probabilities[np.arange(200), ids(truth)]).reshape(20, 10).mean(axis=1)
    low, high = ttest_1samp(losses, 0).confidence_interval()
    expected = losses.mean() * np.exp(np.array([low, high]) / losses.mean() - 1)
    assert found["interval"]["nll"]["this_test_set"] == pytest.approx(expected, rel=0.02)


def test_nll_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    truth = rng.choice(CLASSES, 200).tolist()
    probabilities = rng.dirichlet(np.ones(6), 200)
    result = score(truth, truth, CLASSES, probabilities=probabilities)
    assert result["nll"] == pytest.approx(log_loss(ids(truth), probabilities, labels=list(range(6))))


def test_nll_of_a_certain_error_is_finite():
    result = score(["sad"], ["happy"], ["happy", "sad"], probabilities=np.array([[1.0, 0.0]]))
    assert result["nll"] == pytest.approx(52 * np.log(2))


def test_ece_counted_by_hand():
    # bins of 1/15: 0.9 in the 14th, twice, one right; 0.61 and 0.65 in the 10th, both right
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.61, 0.39], [0.35, 0.65]])
    result = score(
        ["happy", "sad", "happy", "sad"], ["happy", "happy", "happy", "sad"], ["happy", "sad"], None, probabilities
    )
    assert result["ece"] == pytest.approx((2 * abs(0.5 - 0.9) + 2 * abs(1 - 0.63)) / 4)


def test_ece_of_a_calibrated_model_is_small():
    rng = np.random.default_rng(2)
    p = rng.random(20_000)
    truth = ["happy" if hit else "sad" for hit in rng.random(20_000) < p]
    predicted = ["happy" if q >= 0.5 else "sad" for q in p]
    result = score(truth, predicted, ["happy", "sad"], probabilities=np.stack([p, 1 - p], axis=1))
    assert result["ece"] < 0.02


def test_half_precision_probabilities_are_taken():
    probabilities = np.random.default_rng(3).dirichlet(np.ones(6), 100).astype(np.float16)
    assert score(["sad"] * 100, ["sad"] * 100, CLASSES, probabilities=probabilities)["nll"] > 0


@pytest.mark.parametrize("what", ["truth", "predicted"])
def test_an_unknown_emotion_is_named_with_the_nearest(what):
    emotions = {"truth": ["sad", "sad"], "predicted": ["sad", "sad"], what: ["sad", "angri"]}
    with pytest.raises(ConfigError, match=rf"{what}\[1\].*'angri'; did you mean 'angry'"):
        score(**emotions, classes=CLASSES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"truth": [], "predicted": []}, "at least one utterance"),
        ({"predicted": ["sad"]}, "one prediction per truth, found 1 for 2"),
        ({"groups": ["a"]}, "one group per truth, found 1 for 2"),
        ({"speakers": ["a"]}, "one speaker per truth, found 1 for 2"),
        ({"classes": ["sad", "sad"]}, "each class once"),
        ({"probabilities": np.full((2, 3), 1 / 3)}, r"shape \(2, 6\), found \(2, 3\)"),
        ({"probabilities": np.ones((2, 6))}, r"probabilities\[0\].*sum to 1"),
        ({"probabilities": np.array([[1.0, 0, 0, 0, 0, 0], [np.nan, 1, 0, 0, 0, 0]])}, r"probabilities\[1\].*finite"),
        ({"probabilities": np.array([[2.0, -1, 0, 0, 0, 0]] * 2)}, r"probabilities\[0\].*>= 0"),
    ],
)
def test_bad_input_gets_its_line(arguments, message):
    good = {"truth": ["sad", "happy"], "predicted": ["sad", "sad"], "classes": CLASSES}
    with pytest.raises(ConfigError, match=message):
        score(**(good | arguments))
