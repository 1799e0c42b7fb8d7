"""Many recordings at once: which ones, with which transcripts, into which files, and continued after a stop."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wavfusion import media
from wavfusion.cli.app import main
from wavfusion.errors import ConfigError, CorpusError, MediaError
from wavfusion.prediction import recordings
from wavfusion.prediction.recognizer import Prediction
from wavfusion.transcripts import Segment

pytest_plugins = ("corpus_fixture",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Names of recordings, and of what is none."""
    for name in ("talks/b.WAV", "talks/a.mp4", "talks/deep/a.mp4", "talks/notes.txt", "talks/a.srt", "one.ogg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def said(file: str) -> list[Prediction]:
    return [Prediction(file, 0.0, 1.0, None, None, "sad", 0.9, {"sad": 0.9, "happy": 0.1}, ["audio"])]


def run(planned: list[recordings.Recording], force: bool = False) -> tuple[list[str], list[str], list[Any]]:
    """Label with a stand-in for a model; what it was asked for, what was bad, what was found."""
    asked, bad = list[str](), list[str]()

    def work(each: recordings.Recording) -> list[Prediction]:
        asked.append(each.file)
        if "bad" in each.file:
            raise MediaError(f"{each.file}: no media")
        return said(each.file)

    found = list(recordings.label(planned, lambda: work, bad, lambda found, _: found.rows[0].file.encode(), force))
    return asked, bad, found


def test_a_folder_stands_for_the_recordings_below_it(folder: Path) -> None:
    found = recordings.find_recordings([str(folder / "talks"), str(folder / "one.ogg")], [])
    assert [str(name) for name in found.values()] == ["talks/a.mp4", "talks/b.WAV", "talks/deep/a.mp4", "one.ogg"]


def test_whatever_ffmpeg_opens_is_a_recording_and_what_is_passed_over_is_counted(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Transport streams, audio books and sixteen other kinds were passed over in silence; `._a.wav` was an error."""
    kinds = "ts mka caf m4b au vob ogv 3g2 qt sph ac3 mp2 wv asf f4v mxf".split()
    for name in [
        *(f"many/a.{kind}" for kind in kinds),
        "many/._a.wav",
        "many/.trash/b.wav",
        "many/a.jpg",
        "many/README",
    ]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    found = recordings.find_recordings([str(folder / "many")], [])
    assert sorted(str(name) for name in found.values()) == sorted(f"many/a.{kind}" for kind in kinds)
    expected = "passed over 4 files that are no recordings: 2 hidden, 1 without an ending, 1 .jpg"
    assert caplog.messages == [expected]


def test_pictures_subtitles_and_text_are_no_recordings() -> None:
    assert not media.endings() & {
        ".jpg",
        ".png",
        ".gif",
        ".heic",
        ".srt",
        ".vtt",
        ".ass",
        ".txt",
        ".js",
        ".sub",
        ".mks",
    }


def test_a_folder_without_a_recording_does_not_stop_the_others(folder: Path) -> None:
    (folder / "empty").mkdir()
    bad: list[str] = []
    assert len(recordings.find_recordings([str(folder / "empty"), str(folder / "one.ogg")], bad)) == 1
    assert len(bad) == 1 and "found none in this folder" in bad[0]


def test_what_is_named_twice_is_labelled_once(folder: Path) -> None:
    assert len(recordings.find_recordings([str(folder / "one.ogg"), str(folder / "one.ogg")], [])) == 1


def test_every_recording_has_its_own_file_of_results(folder: Path) -> None:
    planned = recordings.plan_recordings(
        recordings.find_recordings([str(folder / "talks")], []), None, folder / "out", "TextGrid"
    )
    assert [str(each.out and each.out.relative_to(folder)) for each in planned] == [
        "out/talks/a.mp4.TextGrid", "out/talks/b.WAV.TextGrid", "out/talks/deep/a.mp4.TextGrid"
    ]  # fmt: skip


def test_two_of_one_name_are_refused_where_each_has_a_file(folder: Path) -> None:
    files = recordings.find_recordings([str(folder / "talks" / "a.mp4"), str(folder / "talks" / "deep" / "a.mp4")], [])
    with pytest.raises(ConfigError, match="of different names, found .*talks/a.mp4 and .*deep/a.mp4"):
        recordings.plan_recordings(files, None, folder / "out", "csv")
    assert len(recordings.plan_recordings(files, None, None, "csv")) == 2


def test_a_folder_of_transcripts_has_one_for_each_by_its_name(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = folder / "words"
    words.mkdir()
    (words / "ONE.ogg.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    (words / "b.txt").write_text("good morning\n")
    planned = recordings.plan_recordings(recordings.find_recordings([str(folder)], []), str(words), None, "csv")
    assert [each.transcript for each in planned] == [[Segment(0.0, 1.0, None, "hello")], None, "good morning", None]
    assert "no transcript for 2 of 4 recordings" in caplog.text and "a.mp4" in caplog.text


@pytest.mark.parametrize("places", [("talks", "talks/deep"), ("", "deep")])
def test_transcripts_of_one_name_lie_as_their_recordings_do(folder: Path, places: tuple[str, str]) -> None:
    """What two recordings of one name had at once in the folder was taken for the words of both."""
    for place, said in zip(places, ("above", "below"), strict=True):
        (folder / "words" / place).mkdir(parents=True, exist_ok=True)
        (folder / "words" / place / "a.txt").write_text(said)
    planned = recordings.plan_recordings(
        recordings.find_recordings([str(folder / "talks")], []), str(folder / "words"), None, "csv"
    )
    expected = ["above" if places[0] else None, None, "below"]  # at once in the folder it could be either's
    assert [each.transcript for each in planned] == expected


def test_a_folder_of_transcripts_is_listed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was listed once for each recording: a folder of 10,000 took 10,000 listings."""
    (folder / "words").mkdir()
    listed, iterdir = [], Path.iterdir

    def counted(self: Path) -> Iterator[Path]:
        listed.append(self)
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", counted)
    files = {f"{number}.wav": Path("talks", f"{number}.wav") for number in range(9)}
    recordings.plan_recordings(files, str(folder / "words"), None, "csv")
    assert listed == [folder / "words"]


def test_a_transcript_that_is_no_text_is_one_line_that_names_the_file(folder: Path) -> None:
    (folder / "said.docx").write_bytes(b"PK\3\4")
    with pytest.raises(CorpusError, match=f"^{folder}/said.docx: expected plain text, found a document"):
        recordings.plan_recordings(
            recordings.find_recordings([str(folder / "one.ogg")], []), str(folder / "said.docx"), None, "csv"
        )


def test_a_bad_transcript_in_a_folder_is_an_error_of_its_recording_alone(folder: Path) -> None:
    """One cue of no length stopped all recordings of the folder."""
    words, bad = folder / "words", list[str]()
    words.mkdir()
    (words / "one.ogg.srt").write_text("1\n00:00:01,000 --> 00:00:01,000\nhello\n")
    (words / "b.txt").write_text("good morning\n")
    files = recordings.find_recordings([str(folder)], [])
    planned = recordings.plan_recordings(files, str(words), None, "csv", bad)
    assert [Path(each.file).name for each in planned] == [name for name in map(_name, files) if name != "one.ogg"]
    assert [each.transcript for each in planned if each.transcript] == ["good morning"]
    expected = f"{folder}/one.ogg': {words}/one.ogg.srt: line 2: expected a start before its end, found 1 to 1 s"
    assert len(bad) == 1 and bad[0].endswith(expected)


def _name(file: str) -> str:
    return Path(file).name


def test_the_rows_of_a_recording_are_chosen_by_its_name(folder: Path) -> None:
    """Turns of another recording in the same RTTM were added."""
    (folder / "all.rttm").write_text("SPEAKER one 1 0.5 1 <NA> <NA> A\nSPEAKER two 1 2 1 <NA> <NA> B\n")
    files = recordings.find_recordings([str(folder / "one.ogg")], [])
    (planned,) = recordings.plan_recordings(files, str(folder / "all.rttm"), None, "csv")
    assert planned.transcript == [Segment(0.5, 1.5, "A")]


def test_what_is_done_is_not_done_again(folder: Path) -> None:
    planned = recordings.plan_recordings(
        recordings.find_recordings([str(folder / "talks")], []), None, folder / "out", "json"
    )
    first, _, found = run(planned)
    assert (len(first), len(found)) == (3, 3)
    assert planned[1].out is not None
    planned[1].out.unlink()  # as if it had been interrupted before
    assert run(planned)[0] == [planned[1].file]
    assert len(run(planned, force=True)[0]) == 3


def test_a_result_that_another_process_wrote_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """It was looked for when the work began only."""

    def work(each: recordings.Recording) -> list[Prediction]:
        (tmp_path / "a.csv").write_text("theirs")
        return said(each.file)

    planned = [recordings.Recording("a", out=tmp_path / "a.csv")]
    with pytest.raises(CorpusError, match="found a result"):
        list(recordings.label(planned, lambda: work, [], lambda *_: b"ours"))
    assert (tmp_path / "a.csv").read_text() == "theirs"


def test_a_bad_one_does_not_stop_the_others(tmp_path: Path) -> None:
    planned = [recordings.Recording(name) for name in ("a.wav", "bad.wav", "c.wav")]
    _, bad, found = run(planned)
    assert (bad, [each.rows[0].file for each in found]) == (["bad.wav: no media"], ["a.wav", "c.wav"])


def test_a_file_that_is_not_there_is_said_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It took the seconds of loading a model to hear of a mistyped name."""
    for ask in (["predict"], ["embed", "--out", str(tmp_path / "a.npz")]):
        assert main([*ask, "--model", str(tmp_path / "no-run"), str(tmp_path / "none.wav")]) == 2
        found = capsys.readouterr().err
        wish = f"wavfusion: expected an audio or video file at '{tmp_path}/none.wav', found none: "
        assert found.startswith(wish) and found.count("\n") == 1


def test_what_is_done_stays_done_without_its_recording(tmp_path: Path) -> None:
    (tmp_path / "here.wav").write_bytes(b"x")
    (tmp_path / "gone.csv").write_text("done")
    names = {"here.wav": None, "gone.wav": "gone.csv", "none.wav": "none.csv"}
    planned = [recordings.Recording(str(tmp_path / name), None, out and tmp_path / out) for name, out in names.items()]
    bad: list[str] = []
    assert recordings.existing(planned, bad) == planned[:2]
    assert len(bad) == 1 and "none.wav" in bad[0]


def test_results_of_other_settings_are_not_mixed_into_a_folder(tmp_path: Path) -> None:
    recordings.open_results(tmp_path, {"weights": "one"}, force=False)
    recordings.open_results(tmp_path, {"weights": "one"}, force=False)
    with pytest.raises(CorpusError, match="found weights 'one', not 'two'"):
        recordings.open_results(tmp_path, {"weights": "two"}, force=False)
    recordings.open_results(tmp_path, {"weights": "two"}, force=True)
    assert json.loads((tmp_path / recordings.SETTINGS).read_text()) == {"weights": "two"}


def test_the_verb_labels_a_folder_and_goes_on_where_it_was(
    trained: Path, made: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the real model: results of each recording, the bad one named, exit 1; the second time nothing is left."""
    sounds = sorted({row.audio.path for row in made.data.part("test")})[:2]
    files = [str(made.root / path) for path in sounds] + [str(tmp_path / "bad.wav")]
    (tmp_path / "bad.wav").write_text("no sound")
    ask = [
        "predict",
        "--model",
        str(trained),
        *files,
        "--format",
        "json",
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    assert main(ask) == 1
    said = capsys.readouterr()
    assert said.err.rstrip().splitlines()[-1].startswith("wavfusion: ") and "bad.wav" in said.err.splitlines()[-1]
    wrote = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert wrote == sorted([recordings.SETTINGS, *(f"{Path(file).name}.json" for file in files[:2])])
    rows = json.loads((tmp_path / "out" / f"{Path(files[0]).name}.json").read_text())
    assert {each["file"] for each in rows} == {files[0]}
    assert main(ask) == 1 and "2 of 3 recordings are done already" in capsys.readouterr().err
    assert main([*ask, "--min-probability", "0.5"]) == 2
    assert "expected results of the same model and settings" in capsys.readouterr().err
