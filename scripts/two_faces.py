"""Of two people side by side, how often is the face of the one who is heard taken? All pairs, each heard in turn.

python scripts/two_faces.py FOLDER                    # the clips of a folder beside each other
python scripts/two_faces.py FOLDER OTHER              # each beside each of another folder
python scripts/two_faces.py FOLDER --silent           # the one who is not heard keeps still
python scripts/two_faces.py FOLDER --mouth-rate 12.5  # mouths looked at less often
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from wavfusion import media
from wavfusion.media import faces
from wavfusion.prediction.recordings import ENDINGS

RATE, SIZE = 25, (288, 360)


def is_right(clips: tuple[Path, Path], heard: int, silent: bool, out: Path) -> bool:
    """Put two clips side by side with the sound of one, and see whose face is taken."""
    pictures = [media.decode_frames(clip, RATE, SIZE).pixels for clip in clips]
    if silent:
        pictures[1 - heard] = np.repeat(pictures[1 - heard][:1], len(pictures[heard]), 0)
    sound = media.decode_audio(clips[heard]).samples
    media.write_video(out, (np.concatenate(pair, 1) for pair in zip(*pictures, strict=False)), RATE, sound)
    parts = faces.detect_faces(out, 5.0)[0]
    return parts is not None and (np.mean([(left + right) / 2 for left, _, right, _ in parts]) > 0.5) == bool(heard)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print how many are right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--silent", action="store_true")
    parser.add_argument("--mouth-rate", type=float, default=faces.MOUTH_RATE)
    options = parser.parse_args(arguments)
    faces.MOUTH_RATE = options.mouth_rate
    clips = [sorted(path for path in folder.iterdir() if path.suffix in ENDINGS) for folder in options.folders[:2]]
    pairs = itertools.product(*clips) if len(clips) == 2 else itertools.combinations(clips[0], 2)
    with TemporaryDirectory() as scratch:
        out = Path(scratch) / "two.mkv"
        right = [is_right(pair, heard, options.silent, out) for pair in pairs for heard in (0, 1)]
    sys.stdout.write(f"{sum(right)} of {len(right)} right\n")


if __name__ == "__main__":
    main()
