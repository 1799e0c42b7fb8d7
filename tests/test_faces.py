"""The speaker's face: found in real recordings, followed, told from another's by mouth and sound, stored and used.

The recordings of GRID are by Cooke, Barker, Cunningham and Shao (2006), CC BY 4.0.
"""

import itertools
import json
import math
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from wavfusion import corpora, manifest, media
from wavfusion.cli.app import main
from wavfusion.encoders.bundle import load_encoders
from wavfusion.encoders.presets import PRESETS
from wavfusion.errors import ConfigError
from wavfusion.evaluation import evaluate, inference
from wavfusion.experiments import experiment
from wavfusion.features.clips import Media, Medium, plan_windows
from wavfusion.features.extract import Summary, extract
from wavfusion.features.store import FeatureSet, Store, merge_feature_sets, read_feature_sets
from wavfusion.manifest import Utterance, VideoSpan
from wavfusion.media import faces
from wavfusion.media.faces import Face, FaceTrack
from wavfusion.media.video import Region
from wavfusion.prediction.recognizer import EmotionRecognizer
from wavfusion.runs import hub
from wavfusion.runs.folder import read_run
from wavfusion.training import train

DATA = Path(__file__).parents[2] / "shared" / "data"
GRID = sorted((DATA / "grid").glob("*.mpg"))
RAVDESS = sorted((DATA / "ravdess" / "video").glob("*.mp4"))
real = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data, which is not in the repository")


def grid(name: str) -> Path:
    return DATA / "grid" / f"{name}.mpg"


# ---------------------------------------------------------------------- in real recordings


@real
@pytest.mark.parametrize("path", [*GRID, *RAVDESS], ids=lambda path: path.stem)
def test_a_speaker_before_the_camera_is_found_in_every_picture(path: Path) -> None:
    parts, share = faces.detect_faces(path, 5.0)
    assert share == 1.0 and parts is not None
    pictures = media.decode_frames(path, 5.0, (64, 64)).pixels
    assert len(parts) == len(pictures)


@real
@pytest.mark.parametrize("name", ["no_face.mp4", "nasa_13013.mp4"])
def test_without_a_face_the_whole_picture_is_taken(name: str) -> None:
    """In the second a head of 8 pixels is found now and then."""
    parts, share = faces.detect_faces(DATA / "misc" / name, 5.0, 0.0, 15.0)
    assert parts is None and share < faces.LEAST


@real
def test_two_extractions_see_the_same() -> None:
    path = GRID[0]
    assert faces.detect_faces(path, 5.0, 0.5, 2.0) == faces.detect_faces(path, 5.0, 0.5, 2.0)


def beside(left: Path, right: Path, sound: Path | None, out: Path) -> Path:
    """A recording of two people side by side, of whom one is heard."""
    pictures = [media.decode_frames(path, 25, (288, 360)).pixels for path in (left, right)]
    samples = None if sound is None else media.decode_audio(sound).samples
    media.write_video(out, (np.concatenate(pair, 1) for pair in zip(*pictures, strict=False)), 25, samples)
    return out


def centre(regions: list[Region] | None) -> float:
    """Where the crops lie, from left 0 to right 1."""
    assert regions is not None
    return float(np.mean([(left + right) / 2 for left, _, right, _ in regions]))


@real
@pytest.mark.parametrize("heard", [0, 1], ids=["left", "right"])
@pytest.mark.parametrize("pair", [("bbaf2n", "lbbc2a"), ("lwbsza", "brbk7n"), ("swiz3n", "lrwp9a")], ids="-".join)
def test_of_two_who_talk_the_one_who_is_heard_is_taken(pair: tuple[str, str], heard: int, tmp_path: Path) -> None:
    left, right = map(grid, pair)
    regions, share = faces.detect_faces(beside(left, right, (left, right)[heard], tmp_path / "two.mkv"), 5.0)
    assert share == 1.0 and (centre(regions) > 0.5) == bool(heard)


@real
@pytest.mark.parametrize(("seconds", "pictures"), [(0.04, 1), (0.08, 1), (0.2, 1), (0.4, 2), (1.1, 5)])
def test_however_short_a_stretch_of_two_is_each_picture_has_its_part(
    seconds: float, pictures: int, tmp_path: Path
) -> None:
    """One too short for the encoder's rate has a picture all the same, but none of the quicker rate's lies there."""
    path = beside(grid("bbaf2n"), grid("lbbc2a"), grid("bbaf2n"), tmp_path / "two.mkv")
    regions, _ = faces.detect_faces(path, 5.0, 1.0, 1.0 + seconds)
    assert regions is not None and len(regions) == pictures


@real
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_of_all_pairs_nearly_all_are_told_apart(tmp_path: Path) -> None:
    """Eleven people side by side, once with the sound of each; both talk all the time.

    WAVFUSION_PAIRS=55 for all pairs.
    """
    pairs = [*itertools.combinations(GRID, 2)]
    drawn = random.Random(0).sample(pairs, int(os.environ.get("WAVFUSION_PAIRS", "11")))
    right_ones = [
        (centre(faces.detect_faces(beside(one, other, heard, tmp_path / "two.mkv"), 5.0)[0]) < 0.5) == (heard == one)
        for one, other in drawn
        for heard in (one, other)
    ]
    assert len(pairs) == 55 and sum(right_ones) >= 0.9 * len(right_ones)


@real
def test_without_sound_the_larger_face_is_taken(tmp_path: Path) -> None:
    large = media.decode_frames(grid("bbaf2n"), 25, (288, 360)).pixels
    small = media.decode_frames(grid("lbbc2a"), 25, (144, 180)).pixels
    small = np.pad(small, ((0, 0), (72, 72), (90, 90), (0, 0)))
    media.write_video(tmp_path / "two.mkv", (np.concatenate(pair, 1) for pair in zip(small, large, strict=True)), 25)
    assert centre(faces.detect_faces(tmp_path / "two.mkv", 5.0)[0]) > 0.5


@real
def test_the_manifest_s_crop_is_where_the_face_is_looked_for(tmp_path: Path) -> None:
    """IEMOCAP shows both speakers side by side, and a manifest says which of them an utterance is of."""
    path = beside(grid("bbaf2n"), grid("lbbc2a"), grid("bbaf2n"), tmp_path / "two.mkv")
    crop = [360, 0, 720, 288]
    cropped = media.decode_frames(
        path, 5.0, (96, 96), crop=crop, regions=faces.detect_faces(path, 5.0, crop=crop)[0]
    ).pixels
    alone = media.decode_frames(
        grid("lbbc2a"), 5.0, (96, 96), regions=faces.detect_faces(grid("lbbc2a"), 5.0)[0]
    ).pixels
    assert np.abs(cropped.astype(float) - alone).mean() < 12  # written anew, and cut out a pixel beside


# ---------------------------------------------------------------------- tracks, by hand


def at(x: float, y: float = 0.0, size: float = 10.0) -> Face:
    return Face(np.array([x, y, x + size, y + size]))


def steps(tracks: list[FaceTrack]) -> list[list[int]]:
    return [track.steps for track in tracks]


def test_a_face_that_moves_on_is_one_track() -> None:
    assert steps(faces.track_faces([[at(3.0 * i)] for i in range(6)], gap=2)) == [[0, 1, 2, 3, 4, 5]]


def test_a_face_that_jumps_is_two() -> None:
    assert steps(faces.track_faces([[at(0)], [at(0)], [at(50)], [at(50)]], gap=2)) == [[0, 1], [2, 3]]


def test_two_faces_keep_their_tracks_whatever_the_order() -> None:
    tracks = faces.track_faces([[at(0), at(30)], [at(31), at(1)], [at(2), at(32)]], gap=2)
    assert [[face.box[0] for face in track.faces] for track in tracks] == [[0, 1, 2], [30, 31, 32]]


def test_the_nearest_of_two_faces_goes_on_with_a_track() -> None:
    tracks = faces.track_faces([[at(0)], [at(6), at(1)]], gap=2)
    assert [face.box[0] for face in tracks[0].faces] == [0, 1] and steps(tracks[1:]) == [[1]]


@pytest.mark.parametrize(("lost", "found"), [(2, [[0, 1, 4, 5]]), (3, [[0, 1], [5, 6]])])
def test_a_lost_face_is_found_again_within_the_gap(lost: int, found: list[list[int]]) -> None:
    seen: list[list[Face]] = [[at(0)], [at(0)], *([[]] * lost), [at(0)], [at(0)]]
    assert steps(faces.track_faces(seen, gap=3)) == found


def test_overlap_is_intersection_over_union() -> None:
    boxes = [at(0).box, at(5).box, at(20).box]
    assert [faces.overlap(boxes[0], box) for box in boxes] == pytest.approx([1.0, 1 / 3, 0.0])


def track(first: int, last: int, x: float = 0.0, size: float = 10.0) -> FaceTrack:
    return FaceTrack(list(range(first, last + 1)), [at(x, size=size) for _ in range(first, last + 1)])


def test_faces_that_were_beside_the_chosen_one_are_another_s() -> None:
    """Where a film cuts from the speaker to who listens, both are taken in turn; of two at one time only one is."""
    large, beside_it, later = track(0, 9, size=20), track(5, 14, x=50), track(20, 24, x=30)
    assert faces.choose_face([beside_it, large, later], None, 5.0) == [large, later]


def test_a_gap_is_bridged_and_the_ends_are_held() -> None:
    one = FaceTrack([2, 3, 7], [at(0), at(0), at(40)])
    assert faces.interpolate([one], 10, 1)[:, 0].tolist() == [0, 0, 0, 0, 10, 20, 30, 40, 40, 40]


def test_between_two_faces_the_nearer_in_time_is_held() -> None:
    """A crop that wandered from one to the other would show neither."""
    assert faces.interpolate([track(0, 1), track(6, 7, x=60)], 8, 1)[:, 0].tolist() == [0, 0, 0, 0, 60, 60, 60, 60]


def test_boxes_are_smoothed_within_a_track() -> None:
    shaken = FaceTrack(list(range(5)), [at(x) for x in (0, 0, 4, 0, 0)])
    assert faces.interpolate([shaken], 5, 3)[:, 0] == pytest.approx([0, 1, 2, 1, 0])


@given(
    x=st.floats(-50, 700), y=st.floats(-50, 400), wide=st.floats(1, 500), high=st.floats(1, 500),
    shape=st.tuples(st.integers(1, 640), st.integers(1, 640)),
)  # fmt: skip
def test_a_crop_is_a_square_inside_of_the_picture(
    x: float, y: float, wide: float, high: float, shape: tuple[int, int]
) -> None:
    left, top, right, bottom = faces.square(np.array([x, y, x + wide, y + high]), shape)
    assert -1e-9 <= left < right <= 1 + 1e-9 and -1e-9 <= top < bottom <= 1 + 1e-9
    assert (right - left) * shape[1] == pytest.approx((bottom - top) * shape[0])


def test_a_crop_has_its_margin() -> None:
    parts = faces.square(np.array([40.0, 35.0, 50.0, 55.0]), (100, 100))
    assert parts == pytest.approx((0.31, 0.31, 0.59, 0.59))


@given(low=st.floats(0.01, 60))
def test_the_quicker_rate_is_the_next_odd_multiple(low: float) -> None:
    found = faces.odd_from(low)
    assert found % 2 == 1 and found >= low and (found == 1 or found - 2 < low)


# ---------------------------------------------------------------------- mouths


def talking(openness: np.ndarray, shift: np.ndarray) -> FaceTrack:
    """A mouth whose lips are soft edges around a dark opening, on a head that moves up and down."""
    rows = np.arange(24)[:, None] + np.zeros((1, 32))
    pictures = [
        200 - 100 / (1 + np.exp(np.abs(rows - 11.5 - move) - 3 - wide))
        for wide, move in zip(openness, shift, strict=True)
    ]
    mouths = [np.round(picture).astype(np.uint8) for picture in pictures]
    return FaceTrack(list(range(len(mouths))), [Face(at(0).box, mouth) for mouth in mouths])


@pytest.fixture
def moving() -> tuple[np.ndarray, np.ndarray]:
    """Two unlike courses of three seconds at 25 pictures a second."""
    return faces.smooth(np.random.default_rng(0).normal(size=(75, 2)), 5).T


def test_a_mouth_is_measured_apart_from_its_head(moving: tuple[np.ndarray, np.ndarray]) -> None:
    openness, shift = moving
    found = faces.mouth_opening(talking(openness, shift))
    assert np.corrcoef(found, openness)[0, 1] > 0.95 and abs(np.corrcoef(found, shift)[0, 1]) < 0.3


def test_a_mouth_is_like_its_own_sound(moving: tuple[np.ndarray, np.ndarray]) -> None:
    own, other = (faces.mouth_correlation(moving[0], sound, 25.0) for sound in moving)
    assert own == pytest.approx(math.sqrt(75)) and other < own / 2


def test_a_mouth_that_never_moves_is_like_no_sound(moving: tuple[np.ndarray, np.ndarray]) -> None:
    assert faces.mouth_correlation(np.zeros(75), moving[0], 25.0) == 0.0


@pytest.mark.parametrize("count", [0, 1, 4])
def test_nothing_is_told_from_a_moment(count: int) -> None:
    assert faces.mouth_correlation(np.arange(count, dtype=float), np.arange(count, dtype=float), 25.0) == 0.0


# ---------------------------------------------------------------------- what a recording is told to be


def complaints(*windows: tuple[float, float]) -> list[str]:
    sight = faces.FaceCoverage()
    for seconds, share in windows:
        sight.add(seconds, share)
    return list(sight.complaints())


def test_a_recording_with_faces_has_no_complaint() -> None:
    assert complaints((15.0, 0.4), (15.0, 0.7)) == complaints() == []


def test_a_recording_with_few_faces_has_its_share() -> None:
    (said,) = complaints((15.0, 0.3), (5.0, 0.0))
    assert "a face was found in 22% of its frames" in said


def test_without_opencv_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"OpenCV, found it not installed .*: pip install 'wavfusion\[face\]'$"):
        load_encoders("tiny", PRESETS["tiny"], ["video"], "face")


# ---------------------------------------------------------------------- keys


def features(view: str, **video: str) -> FeatureSet:
    about = {"name": "v", "fingerprint": "one", "width": 8, **video}
    return FeatureSet("x", frame_rate=5.0, pretrained_rate=1e-4, new_rate=1e-4, video=about, view=view)


def test_frames_faces_and_faces_of_another_detector_have_keys_of_their_own() -> None:
    row, known = Utterance("a", "table", video=VideoSpan("a.mp4")), {"a.mp4": Medium("content", None, 2.0)}
    wanted = [features("frame"), features("face", detector="1"), features("face", detector="2")]
    keys = [plan_windows(row, known, each)[0].video.keys["frames"] for each in wanted]
    assert len(set(keys)) == 3


def test_the_key_of_frames_is_what_it_was_without_faces() -> None:
    """Stores that were filled before stay good."""
    row, known = Utterance("a", "table", video=VideoSpan("a.mp4")), {"a.mp4": Medium("content", None, 2.0)}
    key = plan_windows(row, known, features("frame"))[0].video.keys["frames"]
    assert key == "video-d92af6fce82fb80babb8759ce4bbb3f026c8e2b7"


def test_one_name_holds_one_view() -> None:
    with pytest.raises(ConfigError, match="preset 'x': expected a name of its own in this store, found features of v"):
        merge_feature_sets(features("frame"), features("face", detector="1"))


# ---------------------------------------------------------------------- stored, trained on, called


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of the eleven clips, the longer middle of each, with emotions that nobody meant; one has no face."""
    if not DATA.is_dir():
        pytest.skip("needs ../shared/data, which is not in the repository")
    root = tmp_path_factory.mktemp("faces")
    (root / "raw").mkdir()
    lines = ["id,audio,video,text,emotion,split,start,end"]
    for i, path in enumerate([*GRID, DATA / "misc" / "no_face.mp4"]):
        (root / "raw" / path.name).symlink_to(path)
        sound = path.name if path.suffix == ".mpg" else ""
        part = ("train", "train", "train", "train", "valid", "test")[i % 6]
        lines.append(f"{path.stem},{sound},{path.name},words {i},{('happy', 'sad')[i % 2]},{part},0.5,2.0")
    (root / "raw" / "table.csv").write_text("\n".join(lines) + "\n")
    corpora.write_prepared(corpora.prepare("table", root / "raw"), root / "manifest")
    return root / "manifest" / "manifest.jsonl"


def fill(path: Path, folder: Path, view: str, workers: int = 1) -> Summary:
    rows, about = manifest.read(path), manifest.read_corpus(path)
    loaded = load_encoders("tiny", PRESETS["tiny"], view=view)
    return extract(rows, about, Store(folder, create=True), loaded, workers=workers)


@pytest.fixture(scope="module")
def stored(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of both views."""
    folder = tmp_path_factory.mktemp("store")
    for view in ("frame", "face"):
        fill(corpus, folder, view)
    return folder


def tensors(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted((folder / "shards").glob("*")):
        yield from ((key, x.numpy().tobytes()) for key, x in load_file(path).items())


def test_two_extractions_store_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    for name, workers in (("one", 1), ("two", 2)):
        fill(corpus, tmp_path / name, "face", workers)
    one, two = (dict(tensors(tmp_path / name)) for name in ("one", "two"))
    pictures = [key for key in one if key.startswith("video")]
    assert len(pictures) == 12 and {key: one[key] for key in pictures} == {key: two[key] for key in pictures}


def test_sound_and_words_are_stored_once_for_both_views(stored: Path) -> None:
    kinds = [key.partition("-")[0] for key, _ in tensors(stored)]
    assert {kind: kinds.count(kind) for kind in kinds} == {"audio": 11, "text": 12, "video": 24}


def test_both_views_of_a_preset_have_names(stored: Path) -> None:
    found = {name: each.view for name, each in read_feature_sets(Store(stored)).items()}
    assert found == {"tiny": "frame", "tiny-face": "face"}


def test_where_both_views_are_stored_one_must_be_named(corpus: Path, stored: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one preset, named in the experiment, found tiny, tiny-face"):
        train.train(experiment.read_experiment("paper"), train.read_data(corpus, stored), tmp_path / "run")


def test_a_second_extraction_says_the_same_of_the_faces_and_does_nothing(
    corpus: Path, stored: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    arguments = ["extract", str(corpus), "--store", str(stored), "--preset", "tiny", "--view", "face", "--json"]
    assert main([*arguments, "--device", "cpu", "--workers", "1"]) == 0
    said = capsysbinary.readouterr()
    result = json.loads(said.out)
    assert result["made"] == {"audio": 0, "text": 0, "video": 0}
    assert result["faces"] == {"share": round(11 / 12, 4), "windows": 12, "whole": ["no_face"]}
    assert b"1 of 12 windows have no face, so their whole frames are encoded: no_face" in said.err


@pytest.fixture(scope="module")
def trained(corpus: Path, stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RUN of faces."""
    out = tmp_path_factory.mktemp("runs") / "face"
    setting = experiment.read_experiment("paper", {"train.epochs": "1", "train.batch_size": "8", "preset": "tiny-face"})
    train.train(setting, train.read_data(corpus, stored), out)
    return out


def test_a_run_knows_its_view_and_its_detector(trained: Path) -> None:
    known = read_run(trained).features
    assert (known.view, known.video["detector"]) == ("face", faces.detector_fingerprint())


def test_a_file_is_called_as_its_stored_faces_are(corpus: Path, stored: Path, trained: Path, tmp_path: Path) -> None:
    """Of whole files, as `predict` sees them."""
    root = Path(manifest.read_corpus(corpus).root)
    names = [path.name for path in GRID[:3]]
    rows = [Utterance(name, "table", audio=manifest.AudioSpan(name), video=VideoSpan(name)) for name in names]
    store = Store(tmp_path / "store", create=True)
    loaded = load_encoders("tiny", PRESETS["tiny"], view="face")
    extract(rows, manifest.read_corpus(corpus), store, loaded, workers=1)
    known = read_run(trained)
    samples = evaluate.samples_of(known, rows, store, Media(store, str(root), str(root)))
    sets, temperature = [["audio", "video"]], known.temperature
    (expected,) = inference.classify_subsets(known.model, samples, sets, known.prior, temperature=temperature)
    recognizer = EmotionRecognizer.from_pretrained(trained)
    called = [list(recognizer.predict(root / name)[0].probabilities.values()) for name in names]
    np.testing.assert_allclose(called, expected.probabilities, atol=1e-5)


def test_a_recording_without_faces_is_warned_of_once(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    EmotionRecognizer.from_pretrained(trained).predict(DATA / "misc" / "no_face.mp4")
    assert sum("a face was found in 0% of its frames" in message for message in caplog.messages) == 1


def test_a_recording_with_a_face_is_not(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    EmotionRecognizer.from_pretrained(trained).predict(GRID[0])
    assert not any("a face was found" in message for message in caplog.messages)


def test_faces_that_were_not_extracted_are_asked_for(
    corpus: Path, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fill(corpus, tmp_path / "store", "frame")
    places = ["--manifest", str(corpus), "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    assert main(["evaluate", str(trained), *places, "--device", "cpu"]) == 2
    said = capfd.readouterr().err
    assert "expected video features of " in said and said.endswith("; run extract --view face\n")


def test_the_model_card_names_the_detector(trained: Path, tmp_path: Path) -> None:
    hub.write_hub_folder(trained, tmp_path / "out", "somebody/model")
    assert f"| face detector | YuNet, {faces.detector_fingerprint()}: " in (tmp_path / "out" / "README.md").read_text()


def test_a_run_of_another_detector_is_refused(trained: Path, tmp_path: Path) -> None:
    values = json.loads((trained / "config.json").read_text())
    values["features"]["video"]["detector"] = "another"
    for path in trained.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "encoders").symlink_to(trained / "encoders")
    with pytest.raises(ConfigError, match="expected the face detector another that the model was trained on, found"):
        EmotionRecognizer.from_pretrained(tmp_path)


def test_the_view_changes_the_features(stored: Path) -> None:
    both = [x for key, x in tensors(stored) if key.startswith("video")]
    assert len(set(both)) == 23  # the clip without a face is encoded whole in both


def test_a_picture_is_encoded_as_its_cut_out_square_is(stored: Path, corpus: Path) -> None:
    loaded = load_encoders("tiny", PRESETS["tiny"], ["video"], "face")
    path, size = GRID[0], loaded.video.size
    parts, _ = faces.detect_faces(path, 5.0, 0.5, 2.0)
    frames = media.decode_frames(path, 5.0, size, 0.5, 2.0, None, loaded.video.interpolation, parts).pixels
    direct = loaded.video.encode(frames).half()
    rows = [row for row in manifest.read(corpus) if row.id == path.stem]
    root = manifest.read_corpus(corpus).root
    store = Store(stored)
    (clip,) = plan_windows(rows[0], Media(store, root, root), read_feature_sets(store)["tiny-face"])
    torch.testing.assert_close(store.read(clip.video.keys["frames"]).float(), direct.float(), atol=2e-3, rtol=2e-3)


def test_the_detector_ships_in_the_package() -> None:
    assert faces.WEIGHTS.parent.parent == Path(faces.__file__).parents[1] and faces.WEIGHTS.stat().st_size < 400_000


def test_the_summary_of_frames_says_nothing_of_faces(corpus: Path, tmp_path: Path) -> None:
    assert fill(corpus, tmp_path / "store", "frame").faces == []
