"""The world R*: what each emotion plants in sound, words and picture, and how well the best rule could read it.

One modality carries flags about the reliability of another (irony in the sound about the words, a phone call in the
words about the picture), so adding up per-modality scores is not enough. In the matched null the flags tell nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from jaxtyping import Float64
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import norm

from wavfusion.corpora.emotions import EMOTIONS

Corpus = Literal["iemocap", "meld"]
Priors = Literal["true", "sqrt"]

GROUPS = ("pos", "blame", "loss", "plain")
STEP = 0.1  # arousal levels to a bin, where it is enumerated
SWAPPED = {"pos": "blame", "blame": "pos", "loss": "plain", "plain": "loss"}


@dataclass(frozen=True)
class Signs:
    """What one emotion looks and sounds like when nothing disturbs it; `count` is its frequency in the real corpus."""

    count: int
    arousal: int
    tense: bool
    group: str
    wide: bool


SIGNS: dict[str, dict[str, Signs]] = {
    "iemocap": {
        "happy": Signs(595, 0, False, "pos", False),
        "sad": Signs(1084, -1, False, "loss", False),
        "neutral": Signs(1708, -1, True, "plain", False),
        "angry": Signs(1103, 1, True, "blame", True),
        "excited": Signs(1041, 1, False, "pos", True),
        "frustrated": Signs(1849, 0, True, "blame", False),
    },
    "meld": {
        "neutral": Signs(6436, -1, True, "plain", False),
        "surprise": Signs(1636, 1, False, "plain", True),
        "fear": Signs(358, 1, False, "loss", True),
        "sadness": Signs(1002, -1, False, "loss", False),
        "joy": Signs(2308, 0, False, "pos", False),
        "disgust": Signs(361, 0, True, "blame", False),
        "anger": Signs(1607, 1, True, "blame", True),
    },
}


@dataclass(frozen=True)
class World:
    """Every probability of the generated world; the standard deviations are in arousal levels.

    With `micro` the expression flits over a face at rest, for two pictures at a random time, and tells as much.
    """

    corpus: Corpus
    priors: Priors = "true"
    null: bool = False
    micro: bool = False
    offset_sd: float = 0.60
    arousal_sd: float = 0.30
    tension: float = 0.85
    word: float = 0.90
    expression: float = 0.95
    mouth: float = 0.95
    irony: float = 0.35
    camera: float = 0.50
    noisy: float = 0.10

    @property
    def emotions(self) -> list[str]:
        """The classes in the corpus's order."""
        return EMOTIONS[self.corpus]

    @property
    def signs(self) -> list[Signs]:
        """The signs of every class, in the same order."""
        return [SIGNS[self.corpus][emotion] for emotion in self.emotions]

    @property
    def prior(self) -> Float64[np.ndarray, " C"]:
        """The probability of every class."""
        counts = np.array([sign.count for sign in self.signs], dtype=np.float64)
        weights = np.sqrt(counts) if self.priors == "sqrt" else counts
        return weights / weights.sum()

    @property
    def flag(self) -> Float64[np.ndarray, "2"]:
        """The chance that a flag is shown where there is nothing to tell, and where there is."""
        return np.array([0.5, 0.5]) if self.null else np.array([0.03, 0.95])


@dataclass(frozen=True)
class PlantedClip:
    """Everything planted in one clip; what is shown, not what the emotion would show undisturbed.

    `arousal` is the level shown (class level + noise, or drawn anew in a noisy clip), without the speaker's `offset`.
    """

    emotion: str
    irony: bool
    camera: bool
    noisy: bool
    arousal: float
    tense: bool
    sigh: bool
    group: str
    phone: bool
    expression: str
    wide: bool


def draw(world: World, rng: np.random.Generator) -> PlantedClip:
    """Draw one clip of the world."""
    classes = rng.choice(len(world.prior), size=3, p=world.prior)
    own, heard, seen = (world.signs[index] for index in classes)
    irony, camera, noisy = rng.random(3) < (world.irony, world.camera, world.noisy)
    said = SWAPPED[own.group] if irony else own.group
    shown = seen if camera else own
    return PlantedClip(
        emotion=world.emotions[classes[0]],
        irony=bool(irony),
        camera=bool(camera),
        noisy=bool(noisy),
        arousal=float((heard if noisy else own).arousal + rng.normal(0, world.arousal_sd)),
        tense=_kept(rng, own.tense, 0.5 if noisy else world.tension),
        sigh=bool(rng.random() < (0.5 if noisy else world.flag[int(irony)])),
        group=_kept_group(rng, said, world.word),
        phone=bool(rng.random() < world.flag[int(camera)]),
        expression=_kept_group(rng, shown.group, world.expression),
        wide=_kept(rng, shown.wide, world.mouth),
    )


def bayes(world: World, speakers_shared: bool = False) -> dict[str, float]:
    """The best possible accuracy of every subset of modalities, by enumeration.

    Args:
        world: the probabilities.
        speakers_shared: the speaker's own arousal offset is known, as where test speakers occur in training.
    """
    joint = _joint(world, speakers_shared, STEP)
    return {name: float(joint.sum(axis=hidden).max(axis=0).sum()) for name, hidden in _subsets()}


def reached(world: World, clips: Sequence[tuple[PlantedClip, float]]) -> dict[str, float]:
    """How often the best rule for unknown speakers is right on these very clips, by subset of modalities.

    Beside `bayes` it tells how lucky the draw of a test part was: a handful of voices far from the mean makes it hard.

    Args:
        world: the probabilities.
        clips: each with its speaker's offset.
    """
    joint = _joint(world, False, STEP)
    cells = np.array([_cells(clip, offset) for clip, offset in clips])
    truth = np.array([world.emotions.index(clip.emotion) for clip, _ in clips])
    shares = {}
    for name, hidden in _subsets():
        a, t, v = (np.where(axis + 1 in hidden, 0, cells[:, axis]) for axis in range(3))
        said = joint.sum(axis=hidden, keepdims=True)[:, a, t, v].argmax(axis=0)
        shares[name] = float((said == truth).mean())
    return shares


def _subsets() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every subset of the modalities, with the axes of `_joint` that it does not see."""
    names = ("audio", "text", "video")
    for size in (1, 2, 3):
        for subset in combinations(range(3), size):
            yield "+".join(names[axis] for axis in subset), tuple(axis + 1 for axis in range(3) if axis not in subset)


def additive(world: World) -> float:
    """Accuracy of the best rule that adds one score per modality (the one of least cross-entropy), unknown speakers."""
    joint = _joint(world, speakers_shared=False, step=0.25)
    classes, *sizes = joint.shape
    cells = joint.reshape(classes, -1)
    weight = cells.sum(axis=0)
    splits = np.cumsum([size * classes for size in sizes])[:-1]

    def scores(values: Float64[np.ndarray, " P"]) -> Float64[np.ndarray, "C S"]:
        a, t, v = (part.reshape(classes, -1) for part in np.split(values, splits))
        total = a[:, :, None, None] + t[:, None, :, None] + v[:, None, None, :]
        return np.asarray(total.reshape(classes, -1))

    def loss(values: Float64[np.ndarray, " P"]) -> tuple[float, Float64[np.ndarray, " P"]]:
        logits = scores(values)
        slope = (softmax(logits, axis=0) * weight - cells).reshape(joint.shape)
        parts = [slope.sum(axis=axes).ravel() for axes in ((2, 3), (1, 3), (1, 2))]
        return float(-(cells * log_softmax(logits, axis=0)).sum()), np.concatenate(parts)

    best = minimize(loss, np.zeros(sum(sizes) * classes), jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    return float(cells[scores(best).argmax(axis=0), np.arange(cells.shape[1])].sum())


def _kept(rng: np.random.Generator, value: bool, right: float) -> bool:
    """A binary sign that is shown rightly with probability `right`."""
    return value if rng.random() < right else not value


def _kept_group(rng: np.random.Generator, group: str, right: float) -> str:
    """A group that is shown rightly with probability `right`, else one of the other three."""
    others = [other for other in GROUPS if other != group]
    return group if rng.random() < right else str(rng.choice(others))


def _chances(right: float, index: int, size: int) -> Float64[np.ndarray, " K"]:
    chances = np.full(size, (1 - right) / (size - 1))
    chances[index] = right
    return chances


def _joint(world: World, speakers_shared: bool, step: float) -> Float64[np.ndarray, "C A T V"]:
    """P(class, sound, words, picture), with irony and camera summed out."""
    audio = np.stack([_audio(world, sign, speakers_shared, step) for sign in world.signs])
    text = np.stack([_text(world, sign) for sign in world.signs])
    own = np.stack([_video(world, sign) for sign in world.signs])
    video = np.stack([own, np.broadcast_to(world.prior @ own, own.shape)], axis=1)
    irony = np.array([1 - world.irony, world.irony])
    camera = np.array([1 - world.camera, world.camera])
    # Words first: [class, irony, camera, T] x [class, irony, A] x [class, camera, V].
    heard = np.einsum("i,yia,yict->ycat", irony, audio, text)
    return np.asarray(np.einsum("y,c,ycat,ycv->yatv", world.prior, camera, heard, video))


def _audio(world: World, sign: Signs, speakers_shared: bool, step: float) -> Float64[np.ndarray, "2 A"]:
    """P(arousal bin, tension, sigh | irony) flattened; the last cell is the noisy clip, whose cues tell nothing."""
    spread = np.hypot(world.arousal_sd, 0.0 if speakers_shared else world.offset_sd)
    edges = np.concatenate([[-np.inf], _edges(step), [np.inf]])
    arousal = np.diff(norm.cdf(edges, loc=sign.arousal, scale=spread))
    tension = _chances(world.tension, int(sign.tense), 2)
    sigh = np.stack([1 - world.flag, world.flag], axis=1)
    cues = np.einsum("a,t,is->iats", arousal, tension, sigh).reshape(2, -1)
    return np.concatenate([(1 - world.noisy) * cues, np.full((2, 1), world.noisy)], axis=1)


def _edges(step: float) -> Float64[np.ndarray, " E"]:
    return np.arange(-3.5, 3.5 + step / 2, step)


def _cells(clip: PlantedClip, offset: float) -> tuple[int, int, int]:
    """Where a clip lies in `_joint`: its sound, its words, its picture."""
    edges = _edges(STEP)
    heard = int(np.searchsorted(edges, clip.arousal + offset))
    audio = 4 * (len(edges) + 1) if clip.noisy else 4 * heard + 2 * clip.tense + clip.sigh
    return audio, 2 * GROUPS.index(clip.group) + clip.phone, 2 * GROUPS.index(clip.expression) + clip.wide


def _text(world: World, sign: Signs) -> Float64[np.ndarray, "2 2 T"]:
    """P(word group, phone phrase | irony, camera)."""
    said = [sign.group, SWAPPED[sign.group]]
    groups = np.stack([_chances(world.word, GROUPS.index(group), len(GROUPS)) for group in said])
    phone = np.stack([1 - world.flag, world.flag], axis=1)
    return np.asarray(np.einsum("ig,cp->icgp", groups, phone).reshape(2, 2, -1))


def _video(world: World, sign: Signs) -> Float64[np.ndarray, " V"]:
    """P(expression, mouth) of a face that shows this emotion."""
    expression = _chances(world.expression, GROUPS.index(sign.group), len(GROUPS))
    return np.outer(expression, _chances(world.mouth, int(sign.wide), 2)).ravel()
