import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavfusion import manifest, media
from wavfusion.cli.app import main
from wavfusion.corpora import folds, protocol
from wavfusion.corpora.scan import MediaFacts, Scan
from wavfusion.evaluation import check
from wavfusion.manifest import SPLITS, AudioSpan, Corpus, Utterance, VideoSpan
from wavfusion.runs.folder import read_run

pytest_plugins = ("corpus_fixture",)

CLASSES = ["happy", "sad"]
CORPUS = Corpus("iemocap", "", None, CLASSES, "0")
KINDS = ("speaker", "session", "dialogue", "text", "recording", "bytes")


def rows_of(folder: Path) -> list[Utterance]:
    """Five sessions of two speakers with a wav for every utterance; no two alike."""
    noise = np.random.default_rng(0)
    rows = []
    for number in range(40):
        session, turn = number // 8, number % 8
        media.write_audio(folder / f"{number}.wav", noise.normal(size=800).astype(np.float32) / 9, 16_000)
        rows.append(
            Utterance(
                f"u{number}",
                "iemocap",
                session=f"Ses{session}",
                dialogue=f"Ses{session}_{turn // 4}",
                speaker=f"Ses{session}{'FM'[turn % 2]}",
                audio=AudioSpan(f"{number}.wav"),
                text=f"Line number {number}",
                style="scripted",
                emotion=CLASSES[turn % 2],
            )
        )
    return rows


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Utterance]]:
    folder = tmp_path_factory.mktemp("corpus")
    return folder, rows_of(folder)


def checked(folder: Path, rows: list[Utterance], folds: list[protocol.Protocol]) -> check.Checked:
    looks = Scan(folder, folder / "media.jsonl").probe(
        span.path for row in rows for span in (row.audio, row.video) if span
    )
    return check.check(rows, CORPUS, looks, folder, folds)


def planted(kind: str, folder: Path, one: Utterance, other: Utterance, tag: str) -> Utterance:
    """The first row with what makes it leak into the part of the second."""
    if kind == "recording":
        return replace(one, audio=other.audio)
    if kind == "bytes":
        shutil.copy(folder / other.audio.path, folder / f"copy{tag}.wav")
        return replace(one, audio=AudioSpan(f"copy{tag}.wav"))
    if kind == "text":
        return replace(one, text=other.text.upper() + " !")
    return replace(one, **{kind: getattr(other, kind)})


@pytest.mark.parametrize("name", sorted(folds.PROTOCOLS.keys() - {"official", "manifest", "session5"}))
def test_nothing_is_found_in_a_clean_corpus(corpus: Any, name: str) -> None:
    folder, rows = corpus
    assert checked(folder, rows, protocol.divide_parts(name, rows, CLASSES)).problems == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_planted_leak_is_found(corpus: Any, kind: str) -> None:
    """200 random plants in all: a row takes over speaker, session, ... of a row in another part of a random fold."""
    folder, rows = corpus
    draw = random.Random(kind)
    missed = []
    for plant in range(34):
        fold = draw.choice(protocol.divide_parts("text-disjoint", rows, CLASSES))
        one, other = draw.sample(rows, 2)
        while fold.parts[one.id] == fold.parts[other.id]:
            one, other = draw.sample(rows, 2)
        changed = planted(kind, folder, one, other, f"{kind}{plant}")
        leaking = [changed if row is one else row for row in rows]
        found = [each for each in checked(folder, leaking, [fold]).problems if each.kind == kind]
        if not any({one.id, other.id} <= set(each.ids) for each in found):
            missed.append((plant, one.id, other.id))
    assert missed == []


@given(
    parts=st.lists(st.sampled_from(SPLITS), min_size=6, max_size=6),
    speakers=st.lists(st.sampled_from("abcd"), min_size=6, max_size=6),
)
def test_a_split_file_passes_only_where_no_speaker_is_in_two_parts(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], speakers: list[str]
) -> None:
    rows = [Utterance(f"u{i}", "table", speaker=each, text="x", emotion="sad") for i, each in enumerate(speakers)]
    path = tmp_path_factory.mktemp("split") / "split.csv"
    path.write_text("id,split\n" + "".join(f"u{i},{part}\n" for i, part in enumerate(parts)))
    found = check.check(rows, CORPUS, {}, path.parent, protocol.divide_parts(str(path), rows, CLASSES))
    shared = any(len({part for part, each in zip(parts, speakers, strict=True) if each == who}) > 1 for who in "abcd")
    assert (found.problems != []) == shared


def test_what_a_protocol_does_not_rule_out_is_a_note(corpus: Any) -> None:
    folder, rows = corpus
    found = checked(folder, rows, protocol.divide_parts("random5", rows, CLASSES)[:1])
    assert not found.problems and "random5, fold 1: 6 speakers in train and test, which it does not rule out" in (
        found.notes
    )


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"emotion": "joyful"}, "label", "'joyful' is none of happy, sad"),
        ({"audio": AudioSpan("gone.wav")}, "file", "gone.wav"),
        ({"audio": AudioSpan("0.wav", 0.0, 9.0)}, "times", "audio: 0 to 9 s of a file of 0.05 s"),
        ({"video": VideoSpan("0.wav")}, "file", "'0.wav': no video track"),
        ({"audio": AudioSpan("1.wav")}, "duplicate", "one recording in several rows"),
    ],
)
def test_a_row_that_is_not_as_it_should_be_is_named(corpus: Any, change: dict[str, Any], kind: str, words: str) -> None:
    folder, rows = corpus
    found = checked(folder, [replace(rows[0], **change), *rows[1:]], []).problems
    assert [(each.kind, words in each.text, "u0" in each.ids) for each in found] == [(kind, True, True)]


def test_a_modality_that_is_marked_missing_is_no_problem(corpus: Any) -> None:
    folder, rows = corpus
    marked = replace(rows[0], audio=AudioSpan("gone.wav"), missing=["audio"])
    assert check.check([marked], CORPUS, {"gone.wav": MediaFacts(reason="gone")}, folder, []).problems == []


def test_the_two_halves_of_one_picture_are_two_recordings(corpus: Any) -> None:
    folder, rows = corpus
    left, right = (
        replace(row, audio=None, video=VideoSpan("a.avi", 0.0, 1.0, crop))
        for row, crop in zip(rows[:2], ([0, 0, 360, 480], [360, 0, 720, 480]), strict=True)
    )
    assert check.check([left, right], CORPUS, {"a.avi": MediaFacts(1.0, 1.0)}, folder, []).problems == []


# ---------------------------------------------------------------------- the command


def written(folder: Path, rows: list[Utterance], out: Path) -> Path:
    manifest.write(out / "manifest.jsonl", rows)
    manifest.write_corpus(out / "manifest.jsonl", replace(CORPUS, root=str(folder)))
    return out / "manifest.jsonl"


def test_a_leak_makes_the_answer_no(corpus: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, rows = corpus
    path = written(folder, [replace(row, speaker="Ann") for row in rows], tmp_path)
    assert main(["check", str(path), "--protocol", "loso5"]) == 1
    assert "speaker: loso5, fold 1: 1 speaker in train and valid: ann (u0, u1, u2, u3, u4 and 35 more)" in (
        capsys.readouterr().out.splitlines()
    )


def test_a_clean_corpus_is_checked_under_its_own_protocol(
    corpus: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, rows = corpus
    assert main(["check", str(written(folder, rows, tmp_path)), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []


def test_the_corpus_of_a_run_has_not_leaked_into_it(made: Any, trained: Path) -> None:
    assert main(["check", made.data.manifest_path, "--against", str(trained)]) == 0


def test_another_corpus_whose_files_a_run_was_trained_on_is_refused(
    made: Any, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [replace(row, id=f"other-{row.id}", text=None) for row in made.data.part("train")]
    found = check.check_against(read_run(trained), rows, Path(manifest.read_corpus(made.manifest).root))
    assert {each.kind for each in found.problems} >= {"recording", "speaker"}


@pytest.mark.parametrize(
    "span",
    [
        AudioSpan("8.wav", 0.001, None),
        AudioSpan("8.wav", None, 0.049),
        AudioSpan("8.wav", 0.01, 0.045),
        AudioSpan("8.wav", channel="left"),
    ],
)
def test_nearly_the_same_stretch_of_a_file_is_one_recording(corpus: Any, span: AudioSpan) -> None:
    """A hostile test hid a recording behind a millisecond, and behind another channel of a mono file."""
    folder, rows = corpus
    leaking = [replace(rows[0], audio=span), *rows[1:]]
    fold = protocol.divide_parts("loso5", rows, CLASSES)[0]
    found = checked(folder, leaking, [fold]).problems
    assert [sorted(each.ids) for each in found if each.kind == "recording"] == [["u0", "u8"]]


def test_neighbours_that_touch_in_one_file_are_two_recordings(corpus: Any) -> None:
    folder, rows = corpus
    spans = (AudioSpan("8.wav", 0.0, 0.021), AudioSpan("8.wav", 0.019, 0.05))
    pair = [replace(row, audio=span) for row, span in zip(rows[:2], spans, strict=True)]
    assert checked(folder, pair, []).problems == []


@pytest.mark.parametrize("name", ["ses0f", "Ses0F ", "SES0F"])
def test_a_speaker_in_another_case_is_the_same_speaker(corpus: Any, name: str) -> None:
    folder, rows = corpus
    fold = protocol.divide_parts("loso5", rows, CLASSES)[0]
    leaking = [*rows[:-1], replace(rows[-1], speaker=name)]
    assert [each.kind for each in checked(folder, leaking, [fold]).problems] == ["speaker"]


def test_a_promise_about_unknown_speakers_cannot_be_shown(corpus: Any) -> None:
    folder, rows = corpus
    fold = protocol.divide_parts("loso5", rows, CLASSES)[0]
    found = checked(folder, [replace(rows[0], speaker=None), *rows[1:]], [fold]).problems
    assert [each.text for each in found] == ["loso5, fold 1: 1 row without a speaker: the promise cannot be verified"]


def test_a_coincident_id_does_not_make_a_corpus_the_runs_own(made: Any, trained: Path) -> None:
    """A table whose ids were numbers, as the RUN's, passed for the corpus that it was trained on."""
    own = made.data.part("train")
    rows = [replace(row, id=f"other-{row.id}") for row in own] + [replace(own[0], text="something else")]
    found = check.check_against(read_run(trained), rows, Path(manifest.read_corpus(made.manifest).root))
    assert {each.kind for each in found.problems} >= {"recording"}


def test_copies_of_training_recordings_beside_the_runs_own_rows_are_found(made: Any, trained: Path) -> None:
    copied = replace(made.data.part("train")[0], id="copied")
    rows, root = [*made.data.utterances, copied], Path(manifest.read_corpus(made.manifest).root)
    found = check.check_against(read_run(trained), rows, root)
    assert [each.kind for each in found.problems] == ["recording"]


def test_files_that_cannot_be_compared_are_counted(made: Any, trained: Path, tmp_path: Path) -> None:
    found = check.check_against(read_run(trained), made.data.utterances, tmp_path)
    assert any("files cannot be read: copies are not looked for" in note for note in found.notes)


def test_a_damaged_protocol_of_a_run_is_one_line(
    made: Any, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    about = json.loads((trained / "protocol.json").read_text())
    for damage in (5, {"colour": ["train+test"]}, None):
        (tmp_path / "run/protocol.json").write_text(json.dumps({**about, "promises": damage}))
        assert main(["check", str(made.manifest), "--against", str(tmp_path / "run")]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--root", "nowhere"], "--root: expected the folder of the corpus, found none at 'nowhere'"),
        (["--protocol", "loso5", "--against", "run"], "found both"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    corpus: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    folder, rows = corpus
    assert main(["check", str(written(folder, rows, tmp_path)), *more]) == 2
    assert message in capsys.readouterr().err


def test_an_unlabelled_corpus_is_checked_for_validity_alone(
    corpus: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, rows = corpus
    path = written(folder, [replace(row, emotion=None) for row in rows], tmp_path)
    manifest.write_corpus(path, replace(CORPUS, root=str(folder), classes=[]))
    assert main(["check", str(path)]) == 0
    assert "validity alone was checked" in capsys.readouterr().out


def test_an_encoder_that_met_the_corpus_makes_the_answer_no(made: Any, trained: Path) -> None:
    run = read_run(trained)
    met = replace(run.features, audio={**run.features.audio, "name": "superb/hubert-base-superb-er"})
    rows = [replace(row, corpus="iemocap") for row in made.data.utterances]
    found = check.check_against(replace(run, features=met), rows, Path(manifest.read_corpus(made.manifest).root))
    assert [each.text for each in found.problems if each.kind == "encoder"] == [
        "the audio encoder superb/hubert-base-superb-er was trained on this corpus"
    ]


def tabled(number: int, speaker: str, text: str, **more: Any) -> Utterance:
    return Utterance(f"t{number}", "table", speaker=speaker, text=text, emotion=CLASSES[number % 2], **more)


def test_sentences_that_all_speakers_say_are_noted_where_the_style_is_unknown() -> None:
    """NEMO and EmoDB as tables have no style: `speaker-folds` tested on the sentences of training, without a word."""
    rows = [tabled(number, f"s{number // 4}", f"Sentence {number % 4}!") for number in range(12)]
    found = check.check(rows, CORPUS, {}, Path("."), protocol.divide_parts("speaker-folds", rows, CLASSES)[:1])
    assert [note for note in found.notes if "train and test" in note] == [
        "speaker-folds, fold 1: 4 texts in train and test, which it does not rule out: 4 of 4 rows of test"
    ]
    assert not found.problems
    spoken = [replace(row, style="improvised") for row in rows]
    found = check.check(spoken, CORPUS, {}, Path("."), protocol.divide_parts("speaker-folds", rows, CLASSES)[:1])
    assert not any("texts" in note for note in found.notes)


def test_a_corpus_without_a_split_is_said_to_be_one() -> None:
    """`no labelled rows under a protocol`, where every row had a label and only the split was missing."""
    rows = [tabled(number, "s", f"Sentence {number}") for number in range(2)]
    (note,) = check.check(rows, CORPUS, {}, Path("."), []).notes
    assert note == ("validity alone was checked, as the rows have no split: name a --protocol, such as speaker-folds")
    (note,) = check.check([replace(row, emotion=None) for row in rows], CORPUS, {}, Path("."), []).notes
    assert note == "validity alone was checked, as no row has an emotion"


def test_a_modality_that_no_row_has_is_a_problem_where_the_table_names_it() -> None:
    rows = [tabled(number, "s", "x", missing=["audio", "video"]) for number in range(2)]
    found = check.check(rows, replace(CORPUS, modalities=["audio", "text"]), {}, Path("."), [])
    assert [(each.kind, each.ids) for each in found.problems] == [("missing", ["t0", "t1"])]
    some = [rows[0], replace(rows[1], missing=["video"])]
    found = check.check(some, replace(CORPUS, modalities=["audio", "text"]), {}, Path("."), [])
    assert not found.problems and "audio: missing in 1 of 2 rows" in found.notes


def test_what_the_parts_of_a_run_share_is_not_laid_to_another_corpus(
    made: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check emodb --against run` answered no, as two parts of the RUN shared texts."""
    own, root = made.data.utterances, Path(manifest.read_corpus(made.manifest).root)
    overlapping = [replace(row, text="the very same line", style="scripted", speaker="Ann") for row in own]
    monkeypatch.setattr(manifest, "read", lambda path: overlapping)
    others = [
        Utterance(f"e{number}", "emodb", text=f"Satz {number}", speaker="s1", emotion="sad") for number in range(3)
    ]
    found = check.check_against(read_run(trained), others, root)
    assert (found.problems, [note for note in found.notes if "text" in note]) == ([], [])
    leaking = [replace(others[0], text="The very same line!", style="scripted"), *others[1:]]
    (problem, *more) = check.check_against(read_run(trained), leaking, root).problems
    assert problem.kind == "text" and "e0" in problem.ids and {each.kind for each in more} <= {"text"}
