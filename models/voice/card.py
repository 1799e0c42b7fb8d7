"""Write the model card from the figures: what the model reaches, where, and what it must not be used for.

    python models/voice/card.py TRAININGS MANIFEST CHANGED BASELINES > CARD.md

TRAININGS holds the RUN `kept` and the RUNs `left_out/fold1` to `fold4` of `voice.yaml`; CHANGED is what `judge.py`
wrote, BASELINES what `baselines.py` wrote. All figures come from these files.
"""

import csv
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from corpora import CORPORA, sex_of
from sklearn.metrics import recall_score

from wavfusion import manifest
from wavfusion.manifest import Utterance
from wavfusion.media.container import probe_span
from wavfusion.metrics.clusters import MIN_CLUSTERS
from wavfusion.runs.bundle import read_bundle
from wavfusion.runs.results import Predictions, chance_of, majority_of

LENGTHS = ((0.0, 2.0), (2.0, 3.0), (3.0, 60.0))  # seconds
COVERED = (1.0, 0.8, 0.6, 0.4)  # shares of the clips that are answered, the surest first

INTRODUCTION = """\
# wavfusion-voice

Emotion in speech from the voice alone: {emotions}.
It uses the sound of the voice, not the words, and a label is how a rater would call the expression, not what a person
feels. {clips:,} acted clips of {speakers} speakers in four languages taught it; it runs offline, on a CPU.

- **Speakers whom it has not met, of corpora that it knows**: UAR {kept}, chance {chance}.
- **Corpora that it has not met**, one of the four left out of training at a time: UAR
  {left_out}.
  This is what to expect of other recordings of acted speech; of spontaneous speech expect less.

All figures are of this model, or of trainings with its settings, and were written into this card by a program
(`models/voice/card.py` in the repository of wavfusion). UAR is the mean recall of the emotions. Intervals are of 95 %,
over speakers, where there are five or more.
"""

WARNING = """\
## What it must not be used for

- **Decisions about people**: hiring, credit, insurance, policing, border control, exams, medical or psychological
  diagnosis. In the EU emotion recognition at work and in schools is forbidden (AI Act, article 5).
- **Watching people who have not agreed to it**, or scoring their sincerity, stress or intent.
- **Spontaneous conversation without a check of your own.** It was taught and tested by actors, who exaggerate. Label
  fifty utterances by hand and compare.
- **Children, whispering, singing, laughter and crying, several voices at once**: none was in its training.
- **Commerce**: the licences of its training data forbid it.

Abstain where it is unsure: see *Unsure answers*.
"""

LICENCES = """\
## Training data and licences

The weights are under **CC BY-NC-SA 4.0**, as the corpora demand. The lower part of the encoder is that of OpenAI's
Whisper base (Radford et al. 2022; MIT licence, in `NOTICE`), three of its six layers, in half precision.

{table}
Calm counts as neutral (RAVDESS); boredom is left out (EmoDB). Further RAVDESS actors (21 to 24) and nEMO speakers (KD0,
KS0) took no part in training, validation or test.
"""


@dataclass(frozen=True)
class Tested:
    """The test part of a RUN: its predictions, and the rows of the manifest by id."""

    predictions: Predictions
    rows: dict[str, Utterance]

    def where(self, holds: Callable[[Utterance], bool]) -> "Tested":
        """Select utterances."""
        chosen = [row for row in self.predictions.rows if holds(self.rows[row["id"]])]
        return replace(self, predictions=Predictions(chosen, self.predictions.classes))

    def among_its_emotions(self) -> "Tested":
        """Choose every answer among the emotions that the test part has."""
        possible = [name for name in self.predictions.classes if name in set(self.predictions.truth)]
        rows = [
            {**row, "predicted": max(possible, key=lambda name, row=row: float(row[f"p_{name}"]))}
            for row in self.predictions.rows
        ]
        return replace(self, predictions=Predictions(rows, self.predictions.classes))

    @property
    def corpora(self) -> list[str]:
        """The corpora of its utterances."""
        return [name for name in CORPORA if any(self.rows[row["id"]].corpus == name for row in self.predictions.rows)]

    def of(self, corpus: str) -> "Tested":
        """Select a corpus."""
        return self.where(lambda row: row.corpus == corpus)


def percent(share: float) -> str:
    """Write a share, from 0 to 1."""
    return f"{100 * share:.1f}"


def bounds(interval: Sequence[float]) -> str:
    """Write an interval."""
    return f"{percent(interval[0])} to {percent(interval[1])}"


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Write a table in Markdown."""
    lines = [[*head], *([str(cell) for cell in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figures(tested: Tested) -> list[str]:
    """Clips, speakers, accuracy, UAR and its interval, chance, and the accuracy of the most frequent emotion."""
    found = tested.predictions.score()
    speakers = len({row["speaker"] for row in tested.predictions.rows})
    ends = bounds(found["interval"]["uar"]["this_test_set"]) if speakers >= MIN_CLUSTERS else ""
    shares = [percent(found["accuracy"]), percent(found["uar"]), ends, percent(chance_of(found))]
    return [str(found["n"]), str(speakers), *shares, percent(majority_of(found)[1])]


HEAD = ("clips", "speakers", "accuracy", "UAR", "95 %", "chance", "majority")


def by_slice(slices: Iterable[tuple[str, Tested]], name: str) -> str:
    """Write the figures of parts of a test part."""
    return table((name, *HEAD), ([key, *figures(each)] for key, each in slices if each.predictions.rows))


def recalls(slices: Iterable[tuple[str, Tested]], classes: Sequence[str]) -> str:
    """Write the recall of every emotion, empty where a corpus has none."""

    def cells(tested: Tested) -> list[str]:
        found = tested.predictions.score()["per_class"]
        return [percent(found[name]["recall"]) if found[name]["support"] else "" for name in classes]

    return table(("", *classes), ([name, *cells(each)] for name, each in slices))


def against_baselines(tested: Iterable[Tested], baselines: Path) -> str:
    """Write the UAR beside those of the baselines on the same parts, and the difference to eGeMAPS + SVM."""
    rows = list(csv.DictReader(baselines.read_text("utf-8").splitlines()))
    lines = []
    names = list(dict.fromkeys(row["comparator"] for row in rows))
    for part in tested:
        (corpus,) = part.corpora
        uar = {}
        for name in names:
            own = [row for row in rows if row["comparator"] == name and row["left_out"] == corpus]
            baseline = replace(part, predictions=Predictions(own, part.predictions.classes))
            uar[name] = baseline.among_its_emotions().predictions.score()["uar"]
        ours = part.predictions.score()["uar"]
        gain = f"{100 * (ours - uar['egemaps_svm']):+.1f}"
        lines.append([corpus, percent(ours), *(percent(each) for each in uar.values()), gain])
    return table(("left out", "this model", *names, "against egemaps_svm"), lines)


def confusion(tested: Tested) -> str:
    """Write the confusion matrix: a row a true emotion, in percent of it."""
    classes, found = tested.predictions.classes, np.array(tested.predictions.score()["confusion"])
    shares = found / np.maximum(1, found.sum(1, keepdims=True))
    return table(("true", *classes), ([name, *map(percent, row)] for name, row in zip(classes, shares, strict=True)))


def abstaining(tested: Tested) -> str:
    """Write the accuracy where only the surest clips are answered."""
    rows = tested.predictions
    surest = np.argsort(-rows.probabilities.max(1), kind="stable")
    right = np.array(rows.truth) == np.array(rows.column("predicted"))
    lines = []
    for share in COVERED:
        kept = surest[: round(share * len(surest))]
        least = rows.probabilities.max(1)[kept[-1]]
        lines.append([f"{100 * share:.0f} %", f"{least:.2f}", percent(right[kept].mean())])
    return table(("answered", "from probability", "accuracy"), lines)


def under_changes(changed: Path, rows: dict[str, Utterance]) -> str:
    """Write UAR under noise, a telephone and lossy formats, and the share of clips that keep their emotion."""
    found = list(csv.DictReader(changed.read_text("utf-8").splitlines()))
    plain = {row["id"]: row["predicted"] for row in found if row["change"] == "none"}
    lines = []
    for change in dict.fromkeys(row["change"] for row in found):
        own = [row for row in found if row["change"] == change]
        cells = []
        for corpus in CORPORA:
            chosen = [row for row in own if rows[row["id"]].corpus == corpus]
            truth, predicted = ([row[name] for row in chosen] for name in ("truth", "predicted"))
            cells.append(percent(recall_score(truth, predicted, average="macro", labels=sorted(set(truth)))))
        same = np.mean([row["predicted"] == plain[row["id"]] for row in own])
        lines.append([change, *cells, percent(float(same))])
    seconds = median(float(row["seconds"]) for row in found)
    head = ("change", *CORPORA, "same emotion")
    return f"{table(head, lines)}\nA clip took {seconds:.2f} s (median), on one core and without its decoding.\n"


def main(trainings: Path, manifest_path: Path, changed: Path, baselines: Path) -> None:
    """Write the card to standard output."""
    rows = {row.id: row for row in manifest.read(manifest_path)}
    root = Path(manifest.read_corpus(manifest_path).root)
    bundle = read_bundle(trainings / "kept")
    kept, folds = Tested(bundle, rows), range(1, len(CORPORA) + 1)
    others = (Tested(read_bundle(trainings / f"left_out/fold{fold}"), rows) for fold in folds)
    left_out = [each.among_its_emotions() for each in others]
    classes = bundle.classes
    trained = [rows[key] for key, part in bundle.parts.items() if part == "train"]
    whole = kept.predictions.score()
    seconds = {row["id"]: probe_span(root / rows[row["id"]].audio.path).audio for row in kept.predictions.rows}  # type: ignore[union-attr]
    sources = [
        [
            name,
            ", ".join(f"`{each}`" for each in corpus.repositories),
            corpus.licence,
            corpus.language,
            str(len([row for row in trained if row.corpus == name])),
            str(len({row.speaker for row in trained if row.corpus == name})),
        ]
        for name, corpus in CORPORA.items()
    ]
    each_left_out = [(tested.corpora[0], tested) for tested in left_out]
    sections = [
        INTRODUCTION.format(
            emotions=", ".join(classes),
            clips=len(trained),
            speakers=len({row.speaker for row in trained}),
            kept=f"{percent(whole['uar'])} % ({bounds(whole['interval']['uar']['this_test_set'])})",
            chance=f"{percent(chance_of(whole))} %",
            left_out=", ".join(f"{name} {figures(tested)[3]} %" for name, tested in each_left_out),
        ),
        WARNING,
        "## Speakers whom it has not met\n",
        by_slice([("all", kept), *((name, kept.of(name)) for name in CORPORA)], "corpus"),
        "Recall of each emotion, in percent:\n",
        recalls(((name, kept.of(name)) for name in CORPORA), classes),
        "Confusion, in percent of the true emotion:\n",
        confusion(kept),
        "## Corpora that it has not met\n",
        "Answers are chosen among the emotions that the corpus has.\n",
        by_slice(each_left_out, "left out"),
        "Recall of each emotion, in percent:\n",
        recalls(each_left_out, classes),
        "UAR beside baselines that were trained on the same others (`wavfusion[egemaps]`):\n",
        against_baselines(left_out, baselines),
        "## Unsure answers\n",
        f"Expected calibration error {percent(whole['ece'])} % on the speakers above. Answered are the surest clips:\n",
        abstaining(kept),
        "## By sex and length\n",
        by_slice(
            ((sex, kept.where(lambda row, sex=sex: sex_of(str(row.speaker)) == sex)) for sex in ("female", "male")),
            "sex",
        ),
        by_slice(
            (
                (f"{low:g} to {high:g} s", kept.where(lambda row, low=low, high=high: low <= seconds[row.id] < high))
                for low, high in LENGTHS
            ),
            "length",
        ),
        "Each corpus is one language: RAVDESS English, nEMO Polish, EmoDB German, emotiontts Korean.\n",
        "## Noise, telephone, lossy formats\n",
        "UAR on the same speakers; pink noise at a ratio to the whole clip. The last column compares with `none`.\n",
        under_changes(changed, rows),
        LICENCES.format(table=table(("corpus", "from", "licence", "language", "clips", "speakers"), sources)),
    ]
    sys.stdout.write("\n".join(sections))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
