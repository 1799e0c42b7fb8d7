"""The speaker's face: detected by YuNet, tracked over time, told from other faces by how its mouth follows the audio.

The detector (Wu, Peng and Yu, YuNet: A Tiny Millisecond-level Face Detector, Machine Intelligence Research 20, 2023)
ships in `weights/` and runs in OpenCV (extra `[face]`). The crop is described in docs/howto/faces.md.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8

from wavfusion.errors import ConfigError, MediaError
from wavfusion.media import SAMPLE_RATE
from wavfusion.media.audio import decode_audio
from wavfusion.media.container import PathLike, Real
from wavfusion.media.video import Region, stream_frames

WEIGHTS = Path(__file__).parents[1] / "weights" / "yunet_n.onnx"
METHOD = 1  # increased with every change of this file that changes a crop

LONGEST = 640  # pixels of the longer side of the searched frames; the smallest faces found have 10
SCORE = 0.7  # least score of the detector: faces of the trial recordings have 0.92 and more, a rock 0.57
NEAR = 0.3  # overlap from which two boxes of one frame are the same face: OpenCV's default
MOST = 20  # faces in a frame
OVERLAP = 0.2  # least intersection over union of one face in successive frames
GAP = 1.0  # seconds for which a face may go undetected
LEAST = 0.2  # share of a window's frames in which the face must be found; else the whole frame is used
MARGIN = 1.4  # side of the crop over the longer side of the face, which reaches from brow to chin
WINDOW = 0.6  # seconds over which boxes are smoothed; slower changes of mouth and audio are ignored
MOUTH_RATE = 25.0  # frames per second that show a mouth open and close; at half the rate more speakers were wrong
MOUTH = (24, 32)  # height and width in pixels; the width is the distance of eyes and mouth
LATE = 0.04  # seconds by which the audio may come before or after the mouth
HEARD = 2.0  # correlation of mouth and audio times the root of the number of frames, from which a face speaks
LOW = 0.5  # share of a recording's frames with a face, below which `predict` warns
SETTINGS = (LONGEST, SCORE, NEAR, MOST, OVERLAP, GAP, LEAST, MARGIN, WINDOW, MOUTH_RATE, MOUTH, LATE, HEARD)


class Face(NamedTuple):
    """A face in one frame."""

    box: Float[np.ndarray, "4"]  # left, top, right, bottom in pixels
    mouth: UInt8[np.ndarray, "h w"] | None = None  # grey pixels around the mouth


@dataclass
class FaceTrack:
    """One face over time: the numbers of the frames in which it was found, and its detections."""

    steps: list[int]
    faces: list[Face]

    @property
    def area(self) -> float:
        """Pixels of all its boxes together."""
        return float(sum((right - left) * (bottom - top) for left, top, right, bottom in (x.box for x in self.faces)))

    def is_beside(self, other: "FaceTrack") -> bool:
        """Whether both overlap in time, so that they are of two people."""
        return self.steps[0] <= other.steps[-1] and other.steps[0] <= self.steps[-1]


class SpeakerFace(NamedTuple):
    """The speaker's face in one window."""

    regions: list[Region] | None  # of each frame, the square around the face; None: use the whole frame
    share: float  # of the frames in which the face was found


class FaceCoverage:
    """Share of a recording in which a face was found; complains where it is small."""

    def __init__(self) -> None:
        self.seconds = self.found = 0.0

    def add(self, seconds: float, share: float) -> None:
        """Add a window."""
        self.seconds, self.found = self.seconds + seconds, self.found + seconds * share

    def complaints(self) -> Iterator[str]:
        """Say where the input differs from the faces that a model was trained on."""
        if self.seconds > 0 and self.found < LOW * self.seconds:
            share = self.found / self.seconds
            yield (
                f"a face was found in {share:.0%} of its frames, but the model was trained on faces; for a window with "
                f"a face in less than {LEAST:.0%} of its frames the whole frame is used"
            )


def detector_fingerprint() -> str:
    """Hash the detector and everything that a crop depends on."""
    digest = hashlib.sha256(json.dumps([METHOD, SETTINGS]).encode())
    digest.update(WEIGHTS.read_bytes())
    return digest.hexdigest()[:16]


def require_installed() -> Any:
    """Return OpenCV; raises ConfigError where the extra `[face]` is missing."""
    try:
        return import_module("cv2")
    except ImportError as error:
        raise ConfigError(f"expected OpenCV, found it not installed ({error}): pip install 'wavfusion[face]'") from None


def detect_faces(
    path: PathLike, frame_rate: Real, start: Real = 0.0, end: Real | None = None, crop: Sequence[int] | None = None
) -> SpeakerFace:
    """Find the speaker's face in every frame of a window of at most 15 s; takes the arguments of `decode_frames`.

    Of several faces at one time it is the one whose mouth opens as the file's audio gets louder; where none does, or
    the file has no audio, the one that is largest for the longest.

    Raises:
        MediaError: no frame can be decoded there.
        ConfigError: the extra `[face]` is missing.
    """
    shape, detections = _detect(path, frame_rate, start, end, crop)
    every, envelope = 1, None
    several = any(one.is_beside(other) for one, other in combinations(_steady_tracks(detections, frame_rate), 2))
    if several and len(detections) > 1:
        # An odd multiple of the rate shows the same frames, and as many before each as after it.
        multiple = odd_from(MOUTH_RATE / frame_rate)
        envelope = _envelope(path, start, end, multiple * frame_rate)
        if envelope is not None:
            every = multiple
            shape, detections = _detect(path, every * frame_rate, start, end, crop)
    chosen = choose_face(_steady_tracks(detections, every * frame_rate), envelope, every * frame_rate)
    share = sum(len(track.steps) for track in chosen) / len(detections)
    if share < LEAST:
        return SpeakerFace(None, share)
    boxes = interpolate(chosen, len(detections), _steps(every * frame_rate))[every // 2 :: every]
    return SpeakerFace([square(box, shape) for box in boxes], share)


def odd_from(low: float) -> int:
    """The smallest odd number that is at least `low`."""
    return 2 * int(np.ceil((max(low, 1.0) - 1) / 2)) + 1


def _steps(frame_rate: Real) -> int:
    """Frames in `WINDOW`: an odd number."""
    return 2 * int(WINDOW / 2 * frame_rate) + 1


def _detect(
    path: PathLike, frame_rate: Real, start: Real, end: Real | None, crop: Sequence[int] | None
) -> tuple[tuple[int, int], list[list[Face]]]:
    """Height and width of the searched frames, and the faces in each."""
    cv2 = require_installed()
    detector = cv2.FaceDetectorYN.create("onnx", WEIGHTS.read_bytes(), b"", (LONGEST, LONGEST), SCORE, NEAR, MOST)
    found: list[list[Face]] = []
    before: np.ndarray | None = None
    for pixels in stream_frames(path, frame_rate, LONGEST, start, end, crop):
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
    """Read a detection: left, top, width, height, five points (eyes, nose, corners of the mouth), score."""
    left, top, width, height = (float(x) for x in row[:4])
    eyes, mouth = row[4:8].reshape(2, 2).mean(0), row[10:14].reshape(2, 2).mean(0)
    apart = max(1.0, float(np.hypot(*(mouth - eyes))))
    scale = apart / MOUTH[1]
    # A little below the corners, since the lower lip moves.
    corner = mouth + (0, 0.08 * apart) - scale * (np.array(MOUTH[::-1]) - 1) / 2
    place = np.array([[scale, 0, corner[0]], [0, scale, corner[1]]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(pixels, place, MOUTH[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return Face(np.array([left, top, left + width, top + height]), patch.mean(2).round().astype(np.uint8))


def _envelope(path: PathLike, start: Real, end: Real | None, frame_rate: Real) -> Float[np.ndarray, " n"] | None:
    """Loudness of the file's audio while each frame is shown; None where it has none, or only silence."""
    try:
        samples = decode_audio(path, start, end).samples.astype(np.float64)
    except MediaError:
        return None
    summed = np.concatenate([[0.0], np.cumsum(np.square(samples))])
    middles = (np.arange(np.ceil(len(samples) / SAMPLE_RATE * frame_rate)) + 0.5) / frame_rate
    low, high = (np.clip(np.rint((middles + way * LATE) * SAMPLE_RATE), 0, len(samples)).astype(int) for way in (-1, 1))
    power: np.ndarray = (summed[high] - summed[low]) / np.maximum(1, high - low)
    # The fourth root of power is close to perceived loudness.
    return np.maximum(power, 0.0) ** 0.25 if power.max(initial=0.0) > 0 else None


def _steady_tracks(detections: Sequence[Sequence[Face]], frame_rate: Real) -> list[FaceTrack]:
    """Tracks over more than one frame, if there is more than one frame."""
    tracks = track_faces(detections, max(1, round(GAP * frame_rate)))
    return [track for track in tracks if len(track.steps) >= min(2, len(detections))]


def track_faces(detections: Sequence[Sequence[Face]], gap: int) -> list[FaceTrack]:
    """Link faces of successive frames where they overlap, the best pairs first; `gap` frames without end a track."""
    tracks: list[FaceTrack] = []
    for step, faces in enumerate(detections):
        live = [track for track in tracks if step - track.steps[-1] <= gap]
        pairs = [
            (-overlap(track.faces[-1].box, face.box), i, j)
            for i, track in enumerate(live)
            for j, face in enumerate(faces)
        ]
        taken: dict[int, FaceTrack] = {}
        for negative, i, j in sorted(pairs):
            if -negative >= OVERLAP and j not in taken and live[i].steps[-1] < step:
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
    tracks: Sequence[FaceTrack], envelope: Float[np.ndarray, " n"] | None, frame_rate: Real
) -> list[FaceTrack]:
    """Choose the speaker's tracks: the best of all, then others that overlap none of the chosen ones in time."""

    def rank(track: FaceTrack) -> tuple[float, float]:
        evidence = 0.0  # how clearly the mouth follows the audio; 0 below `HEARD`
        if envelope is not None:
            evidence = mouth_correlation(mouth_opening(track), envelope[track.steps[0] :], frame_rate)
        return evidence if evidence >= HEARD else 0.0, track.area

    chosen: list[FaceTrack] = []
    for track in sorted(tracks, key=rank, reverse=True):
        if not any(track.is_beside(other) for other in chosen):
            chosen.append(track)
    return sorted(chosen, key=lambda track: track.steps[0])


def mouth_opening(track: FaceTrack) -> Float[np.ndarray, " n"]:
    """How far a mouth is open in every frame from a track's first to its last, in its own pixels, up to a constant.

    Between two frames it opens by what the lower half moves down more than the upper one: the vertical motion that
    explains the change of brightness best (Lucas and Kanade, 1981). So motion of the whole head cancels.
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


def mouth_correlation(mouth: Float[np.ndarray, " n"], audio: Float[np.ndarray, " m"], frame_rate: Real) -> float:
    """Correlation of mouth and audio without their slow changes, the best of small shifts, times the root of n."""
    count, reach = min(len(mouth), len(audio)), round(LATE * frame_rate)
    if count < 2 * reach + 3:
        return 0.0
    one, other = (x[:count] - smooth(x[:count, None], _steps(frame_rate))[:, 0] for x in (mouth, audio))
    found = []
    for by in range(-reach, reach + 1):
        x, y = one[max(0, by) : count + min(0, by)], other[max(0, -by) : count - max(0, by)]
        spread = float(x.std() * y.std())
        found.append(float(np.mean((x - x.mean()) * (y - y.mean()))) / spread if spread > 1e-12 else 0.0)
    return max(found) * float(np.sqrt(count))


def smooth(x: Float[np.ndarray, "n c"], steps: int) -> Float[np.ndarray, "n c"]:
    """Average over a Hann window of an odd number of steps; the ends are repeated."""
    bell = np.hanning(steps + 2)[1:-1]
    padded = np.pad(x, ((steps // 2, steps // 2), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, bell / bell.sum(), "valid") for column in padded.T], axis=1)


def interpolate(tracks: Sequence[FaceTrack], count: int, steps: int) -> Float[np.ndarray, "n 4"]:
    """A box for each of `count` frames: smoothed over `steps` within a track, beyond it that of the nearest in time.

    The tracks are in order of time, do not overlap, and are at least one.
    """
    boxes, known = np.zeros((count, 4)), np.zeros(count, bool)
    for track in tracks:
        places = np.arange(track.steps[0], track.steps[-1] + 1)
        found = np.array([face.box for face in track.faces])
        between = np.stack([np.interp(places, track.steps, column) for column in found.T], axis=1)
        boxes[places], known[places] = smooth(between, steps), True
    tracked = np.flatnonzero(known)
    nearest = tracked[np.abs(np.arange(count)[:, None] - tracked).argmin(1)]
    return boxes[nearest]


def square(box: Float[np.ndarray, "4"], shape: tuple[int, int]) -> Region:
    """The square around a face, moved and shrunk to fit into the frame, in shares of the frame."""
    height, width = shape
    left, top, right, bottom = (float(x) for x in box)
    side = min(MARGIN * max(right - left, bottom - top), height, width)
    x = min(max(0.0, (left + right - side) / 2), width - side)
    y = min(max(0.0, (top + bottom - side) / 2), height - side)
    return x / width, y / height, (x + side) / width, (y + side) / height
