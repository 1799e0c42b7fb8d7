"""The speaker's face in a picture: found by YuNet, followed over time, told from others by its mouth and the sound.

The detector (Wu, Peng and Yu, YuNet: A Tiny Millisecond-level Face Detector, Machine Intelligence Research 20, 2023)
ships in `weights/` and runs in OpenCV (extra `[face]`). The crop is described in docs/howto/faces.md.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8

from wavfusion import media
from wavfusion.errors import ConfigError, MediaError

VIEWS = ("frame", "face")
WEIGHTS = Path(__file__).parents[1] / "weights" / "yunet_n.onnx"
METHOD = 1  # raised with every change of the code here that changes a crop

LONGEST = 640  # pixels of the longer side of what is searched: a face may be as small as 10 of them
SCORE = 0.7  # of the detector: real faces of the trial recordings have 0.92 and more, a rock 0.57
NEAR = 0.3  # overlap from which two boxes of one picture are the same face: OpenCV's own value
MOST = 20  # faces in a picture
OVERLAP = 0.2  # intersection over union of one face in two pictures that follow each other
GAP = 1.0  # seconds for which a face may be lost
LEAST = 0.2  # share of a window's pictures in which the face must be found; else the whole picture is taken
MARGIN = 1.4  # side of the crop over the longer side of the face, which reaches from brow to chin
WINDOW = 0.6  # seconds over which boxes are smoothed, and the slower course of mouth and sound is left out
MOUTH_RATE = 25.0  # pictures a second that show a mouth open and close: half of them told fewer speakers right
MOUTH = (24, 32)  # pixels, high and wide; as wide as the eyes are above the mouth
LATE = 0.04  # seconds by which the sound may come before or after the mouth
HEARD = 2.0  # correlation of mouth and sound times the root of the pictures, from which a face is the speaker's
LOW = 0.5  # share of a recording's pictures with a face below which `predict` warns
SETTINGS = (LONGEST, SCORE, NEAR, MOST, OVERLAP, GAP, LEAST, MARGIN, WINDOW, MOUTH_RATE, MOUTH, LATE, HEARD)


class Face(NamedTuple):
    """A face in one picture.

    Attributes:
        box: left, top, right, bottom in pixels.
        mouth: what is around the mouth, grey.
    """

    box: Float[np.ndarray, "4"]
    mouth: UInt8[np.ndarray, "h w"] | None = None


@dataclass
class FaceTrack:
    """One face over time: the numbers of the pictures in which it was found, and what was found."""

    steps: list[int] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)

    @property
    def area(self) -> float:
        """Pixels of all its boxes together."""
        return float(sum((right - left) * (bottom - top) for left, top, right, bottom in (x.box for x in self.faces)))

    def is_beside(self, other: "FaceTrack") -> bool:
        """Whether both are there at one time: then they are of two people."""
        return self.steps[0] <= other.steps[-1] and other.steps[0] <= self.steps[-1]


class Sighting(NamedTuple):
    """The speaker's face in one window.

    Attributes:
        parts: of each picture, the square around the face; None where the whole picture is to be taken.
        share: of the pictures, those in which the face was found.
    """

    parts: list[media.Part] | None
    share: float


class Sight:
    """Adds up in how much of a recording a face was found, and complains where that is little."""

    def __init__(self) -> None:
        self.seconds = self.found = 0.0

    def add(self, seconds: float, share: float) -> None:
        """See a window."""
        self.seconds, self.found = self.seconds + seconds, self.found + seconds * share

    def complaints(self) -> Iterator[str]:
        """What is unlike the faces that a model was trained on."""
        if self.seconds > 0 and self.found < LOW * self.seconds:
            share = self.found / self.seconds
            yield (
                f"a face was found in {share:.0%} of its pictures, and the model was trained on faces; a window with "
                f"a face in less than {LEAST:.0%} is seen whole"
            )


def detector_fingerprint() -> str:
    """Hash the detector and everything that a crop depends on."""
    digest = hashlib.sha256(json.dumps([METHOD, SETTINGS]).encode())
    digest.update(WEIGHTS.read_bytes())
    return digest.hexdigest()[:16]


def require_installed() -> Any:
    """Return OpenCV.

    Raises:
        ConfigError: the extra `[face]` is missing.
    """
    try:
        return import_module("cv2")
    except ImportError as error:
        raise ConfigError(f"expected OpenCV, found it not installed ({error}): pip install 'wavfusion[face]'") from None


def detect_faces(
    path: media.PathLike,
    frame_rate: media.Real,
    start: media.Real = 0.0,
    end: media.Real | None = None,
    crop: Sequence[int] | None = None,
) -> Sighting:
    """Find the speaker's face in every picture of a window of 15 s at most; the arguments are `media.decode_frames`'s.

    Where several faces are there at one time, it is the one whose mouth opens as the file's own sound swells; where
    none does, or the file has no sound, the largest for the longest.

    Raises:
        MediaError: no picture can be decoded there.
        ConfigError: the extra `[face]` is missing.
    """
    shape, seen = _look(path, frame_rate, start, end, crop)
    every, envelope = 1, None
    several = any(one.is_beside(other) for one, other in combinations(_followed(seen, frame_rate), 2))
    if several and len(seen) > 1:
        # An odd multiple shows the same pictures, and as many before each as after it.
        quick = odd_from(MOUTH_RATE / frame_rate)
        envelope = _envelope(path, start, end, quick * frame_rate)
        if envelope is not None:
            every = quick
            shape, seen = _look(path, every * frame_rate, start, end, crop)
    chosen = choose_face(_followed(seen, every * frame_rate), envelope, every * frame_rate)
    share = sum(len(track.steps) for track in chosen) / len(seen)
    if share < LEAST:
        return Sighting(None, share)
    boxes = interpolate(chosen, len(seen), _steps(every * frame_rate))[every // 2 :: every]
    return Sighting([square(box, shape) for box in boxes], share)


def odd_from(low: float) -> int:
    """The least odd number that is not below another."""
    return 2 * int(np.ceil((max(low, 1.0) - 1) / 2)) + 1


def _steps(frame_rate: media.Real) -> int:
    """How many pictures `WINDOW` has: an odd number."""
    return 2 * int(WINDOW / 2 * frame_rate) + 1


# ---------------------------------------------------------------------- what is seen


def _look(
    path: media.PathLike, frame_rate: media.Real, start: media.Real, end: media.Real | None, crop: Sequence[int] | None
) -> tuple[tuple[int, int], list[list[Face]]]:
    """Height and width of the pictures that are searched, and the faces in each."""
    cv2 = require_installed()
    detector = cv2.FaceDetectorYN.create("onnx", WEIGHTS.read_bytes(), b"", (LONGEST, LONGEST), SCORE, NEAR, MOST)
    found: list[list[Face]] = []
    before: np.ndarray | None = None
    for pixels in media.stream_frames(path, frame_rate, LONGEST, start, end, crop):
        if pixels is before:
            found.append(found[-1])
            continue
        before = pixels
        detector.setInputSize((pixels.shape[1], pixels.shape[0]))
        _, rows = detector.detect(np.ascontiguousarray(pixels[..., ::-1]))
        found.append([] if rows is None else [_face(cv2, pixels, row) for row in rows])
    assert before is not None
    return (before.shape[0], before.shape[1]), found


def _face(cv2: Any, pixels: UInt8[np.ndarray, "H W 3"], row: Float32[np.ndarray, "15"]) -> Face:
    """A face of the detector's: left, top, width, height, five points (eyes, nose, corners of the mouth), score."""
    left, top, width, height = (float(x) for x in row[:4])
    eyes, mouth = row[4:8].reshape(2, 2).mean(0), row[10:14].reshape(2, 2).mean(0)
    apart = max(1.0, float(np.hypot(*(mouth - eyes))))
    scale = apart / MOUTH[1]
    # A little lower than the corners, since it is the lower lip that moves.
    corner = mouth + (0, 0.08 * apart) - scale * (np.array(MOUTH[::-1]) - 1) / 2
    place = np.array([[scale, 0, corner[0]], [0, scale, corner[1]]], np.float32)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(pixels, place, MOUTH[::-1], flags=how, borderMode=cv2.BORDER_REPLICATE)
    return Face(np.array([left, top, left + width, top + height]), patch.mean(2).round().astype(np.uint8))


def _envelope(
    path: media.PathLike, start: media.Real, end: media.Real | None, frame_rate: media.Real
) -> Float[np.ndarray, " n"] | None:
    """How loud the file's sound is while each picture is on; None where it has none, or only silence."""
    try:
        samples = media.decode_audio(path, start, end).samples.astype(np.float64)
    except MediaError:
        return None
    summed = np.concatenate([[0.0], np.cumsum(np.square(samples))])
    middles = (np.arange(np.ceil(len(samples) / media.SAMPLE_RATE * frame_rate)) + 0.5) / frame_rate
    low, high = (
        np.clip(np.rint((middles + way * LATE) * media.SAMPLE_RATE), 0, len(samples)).astype(int) for way in (-1, 1)
    )
    power: np.ndarray = (summed[high] - summed[low]) / np.maximum(1, high - low)
    # The fourth root of power, about as loudness is heard.
    return np.maximum(power, 0.0) ** 0.25 if power.max(initial=0.0) > 0 else None


# ---------------------------------------------------------------------- what belongs together


def _followed(seen: Sequence[Sequence[Face]], frame_rate: media.Real) -> list[FaceTrack]:
    """The faces that are there in more than one picture, if there is more than one."""
    tracks = track_faces(seen, max(1, round(GAP * frame_rate)))
    return [track for track in tracks if len(track.steps) >= min(2, len(seen))]


def track_faces(seen: Sequence[Sequence[Face]], gap: int) -> list[FaceTrack]:
    """Link faces of pictures that follow each other where they overlap, the best pairs first.

    Args:
        seen: the faces of every picture.
        gap: after how many pictures without it a face is lost.
    """
    tracks: list[FaceTrack] = []
    for step, faces in enumerate(seen):
        live = [track for track in tracks if step - track.steps[-1] <= gap]
        pairs = [
            (-overlap(track.faces[-1].box, face.box), i, j)
            for i, track in enumerate(live)
            for j, face in enumerate(faces)
        ]
        taken: dict[int, FaceTrack] = {}
        for likeness, i, j in sorted(pairs):
            if -likeness >= OVERLAP and j not in taken and live[i].steps[-1] < step:
                live[i].steps.append(step)
                live[i].faces.append(faces[j])
                taken[j] = live[i]
        tracks += [FaceTrack([step], [face]) for j, face in enumerate(faces) if j not in taken]
    return tracks


def overlap(one: Float[np.ndarray, "4"], other: Float[np.ndarray, "4"]) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    both = float(np.prod(np.maximum(0.0, high - low)))
    union = float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])) - both
    return both / union if union > 0 else 0.0


def choose_face(
    tracks: Sequence[FaceTrack], envelope: Float[np.ndarray, " n"] | None, frame_rate: media.Real
) -> list[FaceTrack]:
    """The faces of the speaker: the best of all, then others, of which none was there beside one that is chosen."""
    ranks = {id(track): (_evidence(track, envelope, frame_rate), track.area) for track in tracks}
    chosen: list[FaceTrack] = []
    for track in sorted(tracks, key=lambda each: ranks[id(each)], reverse=True):
        if not any(track.is_beside(other) for other in chosen):
            chosen.append(track)
    return sorted(chosen, key=lambda track: track.steps[0])


def _evidence(track: FaceTrack, envelope: Float[np.ndarray, " n"] | None, frame_rate: media.Real) -> float:
    """How clearly a mouth follows the sound; 0 where it does not clearly."""
    if envelope is None:
        return 0.0
    evidence = likeness(opening(track), envelope[track.steps[0] :], frame_rate)
    return evidence if evidence >= HEARD else 0.0


def opening(track: FaceTrack) -> Float[np.ndarray, " n"]:
    """How far a mouth is open in every picture from a track's first to its last, up to a constant, in its own pixels.

    Between two pictures it opens by what the lower half moves down more than the upper one: the vertical motion that
    explains the change of brightness best (Lucas and Kanade, 1981). So the motion of the head counts for nothing.
    """
    mouths = np.stack([face.mouth for face in track.faces if face.mouth is not None]).astype(np.float64)
    changes, slopes = np.diff(mouths, axis=0), np.gradient(mouths, axis=1)[:-1]
    half = mouths.shape[1] // 2
    upper, lower = (
        -(slopes[:, rows] * changes[:, rows]).sum((1, 2)) / (np.square(slopes[:, rows]).sum((1, 2)) + 1e-3)
        for rows in (slice(None, half), slice(half, None))
    )
    steps = np.array(track.steps)
    return np.interp(np.arange(steps[0], steps[-1] + 1), steps, np.cumsum(np.concatenate([[0.0], lower - upper])))


def likeness(mouth: Float[np.ndarray, " n"], sound: Float[np.ndarray, " m"], frame_rate: media.Real) -> float:
    """Correlation of a mouth and a sound beside their slow courses, the best of small shifts, times the root of n."""
    count, reach = min(len(mouth), len(sound)), round(LATE * frame_rate)
    if count < 2 * reach + 3:
        return 0.0
    one, other = (x[:count] - smooth(x[:count, None], _steps(frame_rate))[:, 0] for x in (mouth, sound))
    shifted = [
        (one[max(0, by) : count + min(0, by)], other[max(0, -by) : count - max(0, by)])
        for by in range(-reach, reach + 1)
    ]
    spreads = [float(x.std() * y.std()) for x, y in shifted]
    found = [
        float(np.mean((x - x.mean()) * (y - y.mean()))) / spread if spread > 1e-12 else 0.0
        for (x, y), spread in zip(shifted, spreads, strict=True)
    ]
    return max(found) * float(np.sqrt(count))


# ---------------------------------------------------------------------- the crop


def smooth(x: Float[np.ndarray, "n c"], steps: int) -> Float[np.ndarray, "n c"]:
    """Average over a bell of an odd number of steps; the ends are held."""
    bell = np.hanning(steps + 2)[1:-1]
    padded = np.pad(x, ((steps // 2, steps // 2), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, bell / bell.sum(), "valid") for column in padded.T], axis=1)


def interpolate(tracks: Sequence[FaceTrack], count: int, steps: int) -> Float[np.ndarray, "n 4"]:
    """A box for every picture: smoothed within a track, and beyond it that of the picture which is nearest in time.

    Args:
        tracks: in order of time, none beside another, at least one.
        count: pictures.
        steps: over how many a box is smoothed.
    """
    boxes, known = np.zeros((count, 4)), np.zeros(count, bool)
    for track in tracks:
        places = np.arange(track.steps[0], track.steps[-1] + 1)
        found = np.array([face.box for face in track.faces])
        between = np.stack([np.interp(places, track.steps, column) for column in found.T], axis=1)
        boxes[places], known[places] = smooth(between, steps), True
    there = np.flatnonzero(known)
    nearest = there[np.abs(np.arange(count)[:, None] - there).argmin(1)]
    return boxes[nearest]


def square(box: Float[np.ndarray, "4"], shape: tuple[int, int]) -> media.Part:
    """The square around a face, moved inside of the picture and at most as large as it, in shares of the picture."""
    height, width = shape
    left, top, right, bottom = (float(x) for x in box)
    side = min(MARGIN * max(right - left, bottom - top), height, width)
    x = min(max(0.0, (left + right - side) / 2), width - side)
    y = min(max(0.0, (top + bottom - side) / 2), height - side)
    return x / width, y / height, (x + side) / width, (y + side) / height
