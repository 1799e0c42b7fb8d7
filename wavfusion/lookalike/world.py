"""The world R*: the cues that each emotion leaves in audio, text and video, and the Bayes-optimal accuracy from them.

One modality carries flags about the reliability of another (a sigh in the audio marks irony of the text, a phone call
in the text marks a camera on somebody else), so adding up per-modality scores is not enough.
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

Corpus = Literal["iemocap", "meld"]
Priors = Literal["true", "sqrt"]

GROUPS = ("pos", "blame", "loss", "plain")
STEP = 0.1  # arousal levels to a bin, where it is enumerated
SWAPPED = {"pos": "blame", "blame": "pos", "loss": "plain", "plain": "loss"}


@dataclass(frozen=True)
class EmotionCues:
    """The cues of one emotion when nothing disturbs them; `count` is its frequency in the real corpus."""

    count: int
    arousal: int
    tense: bool
    group: str
    wide: bool


EMOTION_CUES: dict[str, dict[str, EmotionCues]] = {
    "iemocap": {
        "happy": EmotionCues(595, 0, False, "pos", False),
        "sad": EmotionCues(1084, -1, False, "loss", False),
        "neutral": EmotionCues(1708, -1, True, "plain", False),
        "angry": EmotionCues(1103, 1, True, "blame", True),
        "excited": EmotionCues(1041, 1, False, "pos", True),
        "frustrated": EmotionCues(1849, 0, True, "blame", False),
    },
    "meld": {
        "neutral": EmotionCues(6436, -1, True, "plain", False),
        "surprise": EmotionCues(1636, 1, False, "plain", True),
        "fear": EmotionCues(358, 1, False, "loss", True),
        "sadness": EmotionCues(1002, -1, False, "loss", False),
        "joy": EmotionCues(2308, 0, False, "pos", False),
        "disgust": EmotionCues(361, 0, True, "blame", False),
        "anger": EmotionCues(1607, 1, True, "blame", True),
    },
}


@dataclass(frozen=True)
class World:
    """Every probability of the generated world; the standard deviations are in arousal levels.

    The priors are those of the real corpus or their square roots. In the matched `null` the flags carry no information.
    With `micro` the expression shows for two frames at a random time on a neutral face, with as much information.
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
    def cues(self) -> dict[str, EmotionCues]:
        """The cues of every class, in the corpus's order."""
        return EMOTION_CUES[self.corpus]

    @property
    def prior(self) -> Float64[np.ndarray, " C"]:
        """The probability of every class."""
        counts = np.array([each.count for each in self.cues.values()], dtype=np.float64)
        weights = np.sqrt(counts) if self.priors == "sqrt" else counts
        return weights / weights.sum()

    @property
    def flag(self) -> Float64[np.ndarray, "2"]:
        """The probability of a flag where its condition is absent, and where it is present."""
        return np.array([0.5, 0.5]) if self.null else np.array([0.03, 0.95])


@dataclass(frozen=True)
class PlantedClip:
    """The cues of one clip as they appear, not as the emotion alone would give them.

    `arousal` is the class's level with noise, or another's in a noisy clip, without the speaker's `offset`.
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


def draw(world: World, rng: np.random.Generator, emotion: str | None = None) -> PlantedClip:
    """Draw one clip of the world, or one of an emotion."""
    drawn = rng.choice(list(world.cues), size=3, p=world.prior).tolist()
    drawn[0] = emotion or drawn[0]
    own, other_audio, other_video = (world.cues[emotion] for emotion in drawn)
    irony, camera, noisy = rng.random(3) < (world.irony, world.camera, world.noisy)
    group = SWAPPED[own.group] if irony else own.group
    shown = other_video if camera else own
    return PlantedClip(
        emotion=drawn[0],
        irony=bool(irony),
        camera=bool(camera),
        noisy=bool(noisy),
        arousal=float((other_audio if noisy else own).arousal + rng.normal(0, world.arousal_sd)),
        tense=_kept(rng, own.tense, 0.5 if noisy else world.tension),
        sigh=bool(rng.random() < (0.5 if noisy else world.flag[int(irony)])),
        group=_kept_group(rng, group, world.word),
        phone=bool(rng.random() < world.flag[int(camera)]),
        expression=_kept_group(rng, shown.group, world.expression),
        wide=_kept(rng, shown.wide, world.mouth),
    )


def bayes_accuracy(world: World, speakers_shared: bool = False) -> dict[str, float]:
    """Compute the Bayes-optimal accuracy of every subset of modalities, by enumeration.

    With `speakers_shared` the speaker's arousal offset is known, as where test speakers occur in training.
    """
    joint = _joint(world, speakers_shared, STEP)
    return {name: float(joint.sum(axis=hidden).max(axis=0).sum()) for name, hidden in _subsets()}


def bayes_accuracy_on(world: World, clips: Sequence[tuple[PlantedClip, float]]) -> dict[str, float]:
    """Compute the accuracy of the Bayes-optimal rule for unknown speakers on clips, each with its speaker's offset.

    Beside `bayes_accuracy` it shows how the draw of a test part differs: a few voices far from the mean make it hard.
    """
    joint = _joint(world, False, STEP)
    cells = np.array([_cells(clip, offset) for clip, offset in clips])
    truth = np.array([list(world.cues).index(clip.emotion) for clip, _ in clips])
    shares = {}
    for name, hidden in _subsets():
        a, t, v = (np.where(axis + 1 in hidden, 0, cells[:, axis]) for axis in range(3))
        predicted = joint.sum(axis=hidden, keepdims=True)[:, a, t, v].argmax(axis=0)
        shares[name] = float((predicted == truth).mean())
    return shares


def clip_likelihoods(world: World, clips: Sequence[tuple[PlantedClip, float]]) -> Float64[np.ndarray, "N C"]:
    """P(cues of a clip | class) for clips with the offset of their speaker, which is unknown to the rule."""
    joint = _joint(world, False, STEP)
    a, t, v = np.array([_cells(clip, offset) for clip, offset in clips]).T
    return np.asarray(joint[:, a, t, v].T / world.prior)


def _subsets() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield every subset of the modalities, with the axes of `_joint` to sum out."""
    axes = {"audio": 1, "text": 2, "video": 3}
    for size in (1, 2, 3):
        for subset in combinations(axes, size):
            yield "+".join(subset), tuple(axis for name, axis in axes.items() if name not in subset)


def additive_accuracy(world: World) -> float:
    """Compute the accuracy of the sum of one score per modality with least cross-entropy, for unknown speakers."""
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
    """Draw a cue that is right with probability `right`."""
    return value if rng.random() < right else not value


def _kept_group(rng: np.random.Generator, group: str, right: float) -> str:
    """Draw a group that is right with probability `right`, else one of the other three."""
    others = [other for other in GROUPS if other != group]
    return group if rng.random() < right else str(rng.choice(others))


def _chances(right: float, index: int, size: int) -> Float64[np.ndarray, " K"]:
    chances = np.full(size, (1 - right) / (size - 1))
    chances[index] = right
    return chances


def _joint(world: World, speakers_shared: bool, step: float) -> Float64[np.ndarray, "C A T V"]:
    """P(class, audio, text, video), with irony and camera summed out."""
    audio = np.stack([_audio(world, cues, speakers_shared, step) for cues in world.cues.values()])
    text = np.stack([_text(world, cues) for cues in world.cues.values()])
    own = np.stack([_video(world, cues) for cues in world.cues.values()])
    video = np.stack([own, np.broadcast_to(world.prior @ own, own.shape)], axis=1)
    irony = np.array([1 - world.irony, world.irony])
    camera = np.array([1 - world.camera, world.camera])
    # Text first: [class, irony, camera, T] x [class, irony, A] x [class, camera, V].
    audio_text = np.einsum("i,yia,yict->ycat", irony, audio, text)
    return np.asarray(np.einsum("y,c,ycat,ycv->yatv", world.prior, camera, audio_text, video))


def _audio(world: World, cues: EmotionCues, speakers_shared: bool, step: float) -> Float64[np.ndarray, "2 A"]:
    """P(arousal bin, tension, sigh | irony) flattened; the last cell is the noisy clip, without information."""
    spread = np.hypot(world.arousal_sd, 0.0 if speakers_shared else world.offset_sd)
    edges = np.concatenate([[-np.inf], _edges(step), [np.inf]])
    arousal = np.diff(norm.cdf(edges, loc=cues.arousal, scale=spread))
    tension = _chances(world.tension, int(cues.tense), 2)
    sigh = np.stack([1 - world.flag, world.flag], axis=1)
    clean = np.einsum("a,t,is->iats", arousal, tension, sigh).reshape(2, -1)
    return np.concatenate([(1 - world.noisy) * clean, np.full((2, 1), world.noisy)], axis=1)


def _edges(step: float) -> Float64[np.ndarray, " E"]:
    return np.arange(-3.5, 3.5 + step / 2, step)


def _cells(clip: PlantedClip, offset: float) -> tuple[int, int, int]:
    """Return the cell of a clip in `_joint`: of audio, text and video."""
    edges = _edges(STEP)
    level = int(np.searchsorted(edges, clip.arousal + offset))
    audio = 4 * (len(edges) + 1) if clip.noisy else 4 * level + 2 * clip.tense + clip.sigh
    return audio, 2 * GROUPS.index(clip.group) + clip.phone, 2 * GROUPS.index(clip.expression) + clip.wide


def _text(world: World, cues: EmotionCues) -> Float64[np.ndarray, "2 2 T"]:
    """P(word group, phone phrase | irony, camera)."""
    shown = [cues.group, SWAPPED[cues.group]]
    groups = np.stack([_chances(world.word, GROUPS.index(group), len(GROUPS)) for group in shown])
    phone = np.stack([1 - world.flag, world.flag], axis=1)
    return np.asarray(np.einsum("ig,cp->icgp", groups, phone).reshape(2, 2, -1))


def _video(world: World, cues: EmotionCues) -> Float64[np.ndarray, " V"]:
    """P(expression, mouth) of a face that shows this emotion."""
    expression = _chances(world.expression, GROUPS.index(cues.group), len(GROUPS))
    return np.outer(expression, _chances(world.mouth, int(cues.wide), 2)).ravel()
