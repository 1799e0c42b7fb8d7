"""Configuration of a WavFusion: the switches of the paper's tables, and the sizes that its frozen encoders set."""

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, TypeVar, get_args, get_origin

from wavfusion.errors import ConfigError, nearest
from wavfusion.files import validated

MODALITIES = ["audio", "text", "video"]
AUDIO_STEP = 320 / 16_000  # seconds between two steps of wav2vec 2.0 and of Whisper
TEXT_HEADS, VIDEO_HEADS = 8, 4  # of the A-GRUs' self-attention
Chosen = TypeVar("Chosen", bound="Switches")


def require_setting(holds: bool, name: str, expected: str, found: object) -> None:
    """Refuse a value of a setting in a `ConfigError` that says what was expected, unless a rule holds."""
    if not holds:
        raise ConfigError(f"{name}: expected {expected}, found {found}")


@dataclass(frozen=True)
class Margin:
    """The margin loss of eq. 12-13.

    Attributes:
        weight: lambda of eq. 15; 0 leaves the shared encoder out.
        alpha: the margin, 0 or more; the paper gives no value, 0.15 is DMD's unit.
        reduction: `triplet` = mean over all triplets, as printed; `anchor` = mean per anchor first.
        size: width of the shared space.
    """

    weight: float = 1.0
    alpha: float = 0.15
    reduction: Literal["triplet", "anchor"] = "triplet"
    size: int = 64

    def __post_init__(self) -> None:
        holds = 0 <= self.weight < math.inf and 0 <= self.alpha < math.inf and self.size >= 1
        known = self.reduction in ("triplet", "anchor")
        require_setting(
            holds and known, "margin", "weight, alpha >= 0, size >= 1 and reduction triplet or anchor", self
        )


@dataclass(frozen=True, kw_only=True)
class Switches:
    """Every choice of structure that an experiment can make; the defaults are the paper read literally.

    Attributes:
        modalities: which of audio, text and video the model has at all (table 3).
        fusion: `deep` = gated cross-modal attention in the top layers; `concat` = pooled and joined (table 6, row 1);
            `mult` = cross-modal transformers of as many weights as `deep`, the control without gates.
        fusion_layers: deep transformer layers, counted from the top (table 6); None = as many as the preset says.
        trainable_layers: audio layers whose pretrained tensors learn, counted from the top; None likewise.
        margin_audio_layer: the layer whose output feeds the margin loss; None = the last below the `fusion_layers`.
        keep_self_attn: keep the self-attention of a deep layer, and add the gated streams behind it, scaled from 0.
        gate: `vector` = eq. 10; `mean` = the plain mean of the two streams.
        init_cross: start both cross-attentions from the layer's own self-attention, or from Xavier-uniform.
        time_positions: add positions in seconds, on one clock, to queries and keys.
        bidirectional: GRUs in both directions, each of half width.
        lvc: the learnable visual centre beside the visual A-GRU (table 4).
        lvc_pool: codeword residuals summed over frames, as its source does, or averaged.
        audio_layers: the output of the audio layer that the model starts from, or a learned weighting of it and of the
            stored ones below.
        audio_stride: every how many audio steps the model takes one: 2 halves the time of training.
        text_layers: the text encoder's last layer, or a learned weighting of all.
        pooled_layers: what is pooled of the audio stream: the output of its last layer, or a learned weighting of it
            and of the inputs of all layers that fuse (of all layers of the model, where none does).
        pooling: what the head takes of the steps: their mean, or their mean and standard deviation.
        margin: the margin loss (table 5).
        task_loss: cross-entropy, weighted by inverse class frequency, or against the raters' shares.
        label_smoothing: share of every label that is spread evenly over all emotions in training.
        modality_dropout: probability with which a training sample loses each of its modalities.
        time_mask: expected fraction of audio steps that are zeroed in training.
        dropout: of the deep layers, the A-GRUs and the head.
        head_dropout: of the head, where it is another one.
    """

    modalities: list[str] = field(default_factory=lambda: list(MODALITIES))
    fusion: Literal["deep", "concat", "mult"] = "deep"
    fusion_layers: int | None = None
    trainable_layers: int | None = None
    margin_audio_layer: int | None = None
    keep_self_attn: bool = False
    gate: Literal["vector", "mean"] = "vector"
    init_cross: Literal["pretrained_all", "xavier_all"] = "pretrained_all"
    time_positions: bool = False
    bidirectional: bool = False
    lvc: bool = True
    lvc_pool: Literal["sum", "mean"] = "sum"
    audio_layers: Literal["last", "weighted"] = "last"
    audio_stride: int = 1
    text_layers: Literal["last", "weighted"] = "last"
    pooled_layers: Literal["last", "weighted"] = "last"
    pooling: Literal["mean", "mean_deviation"] = "mean"
    margin: Margin = field(default_factory=Margin)
    task_loss: Literal["ce", "balanced", "soft"] = "ce"
    label_smoothing: float = 0.0
    modality_dropout: float = 0.0
    time_mask: float = 0.0
    dropout: float = 0.1
    head_dropout: float | None = None

    def __post_init__(self) -> None:
        chosen = [name for name in MODALITIES if name in self.modalities]
        known = len(chosen) == len(self.modalities) > 0
        require_setting(known, "modalities", f"a choice of {', '.join(MODALITIES)}", self.modalities)
        object.__setattr__(self, "modalities", chosen)
        require_setting(self.audio_stride >= 1, "audio_stride", "a whole number from 1", self.audio_stride)
        for name in ("label_smoothing", "modality_dropout", "time_mask", "dropout", "head_dropout"):
            value = getattr(self, name)
            require_setting(value is None or 0 <= value < 1, name, "a share from 0 to below 1", value)
        for entry in fields(Switches):
            choices, value = get_args(entry.type), getattr(self, entry.name)
            if get_origin(entry.type) is Literal and value not in choices:
                raise ConfigError(f"{entry.name}: {nearest(str(value), choices)}")

    def with_layers(self: Chosen, depth: int, deep: int) -> Chosen:
        """Fill in the layers that are left to the preset: of the encoder's `depth`, the top `deep` fuse and learn."""
        fused = deep if self.fusion_layers is None else self.fusion_layers
        trained = deep if self.trainable_layers is None else self.trainable_layers
        margin = depth - fused if self.margin_audio_layer is None else self.margin_audio_layer
        return replace(self, fusion_layers=fused, trainable_layers=trained, margin_audio_layer=margin)


@dataclass(frozen=True, kw_only=True)
class WavFusionConfig(Switches):
    """A whole model: the switches, the emotions, and the sizes that its encoders set.

    The defaults are those of wav2vec2-base, RoBERTa-base and EfficientNet-B0.

    Attributes:
        classes: emotions in the order of the logits.
        hidden_size, num_heads, intermediate_size, num_layers, layer_norm_eps: of the audio encoder's transformer.
        pre_norm: the audio encoder normalises before its sub-layers ("stable layer norm", the large models).
        position_buckets, position_distance: of WavLM's gated relative position bias; 0 where there is none.
        audio_centre: seconds to the middle of the first audio step (of 400 samples in wav2vec 2.0).
        weighted_layers: audio layers whose outputs the model weights, ascending; empty with `audio_layers: last`.
        text_size, num_text_layers: width and number of stored layers of the text features.
        video_size, video_width: width of a frame's vector, and of e^v that the model maps it to.
        frame_rate: video frames per second.
    """

    classes: list[str]
    fusion_layers: int = 3
    trainable_layers: int = 3
    margin_audio_layer: int = 9
    hidden_size: int = 768
    num_heads: int = 12
    intermediate_size: int = 3072
    num_layers: int = 12
    layer_norm_eps: float = 1e-5
    pre_norm: bool = False
    position_buckets: int = 0
    position_distance: int = 800
    audio_centre: float = 200 / 16_000
    weighted_layers: list[int] = field(default_factory=list)
    text_size: int = 768
    num_text_layers: int = 1
    video_size: int = 1280
    video_width: int = 64
    frame_rate: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        layers, unfused = f"0 to {self.num_layers} layers", self.num_layers - self.num_deep
        fuses = self.fusion != "concat" and len(self.modalities) > 1
        takes_audio = self.has_margin and "audio" in self.modalities
        for name, holds, expected in (
            ("classes", len(set(self.classes)) == len(self.classes) > 0, "distinct emotions"),
            ("hidden_size", self.hidden_size % self.num_heads == 0, "a multiple of num_heads"),
            ("hidden_size", self.hidden_size % 2 == 0, "an even width"),
            ("num_heads", self.fusion != "mult" or self.hidden_size // 2 % self.num_heads == 0, "a divisor of half"),
            ("text_size", self.text_size % TEXT_HEADS == 0, f"a multiple of {TEXT_HEADS}"),
            ("video_width", self.video_width % VIDEO_HEADS == 0, f"a multiple of {VIDEO_HEADS}"),
            ("frame_rate", 0 < self.frame_rate < math.inf, "frames per second above 0"),
            ("fusion_layers", 0 <= self.fusion_layers <= self.num_layers, layers),
            ("trainable_layers", 0 <= self.trainable_layers <= self.num_layers, layers),
            ("fusion_layers", self.fusion_layers > 0 or not fuses, "at least 1 (none with fusion concat)"),
            (
                "weighted_layers",
                not self.weighted_layers or self.weighted_layers[-1] == self.input_layer,
                f"layers up to {self.input_layer}, from which the model starts",
            ),
            (
                "margin_audio_layer",
                0 <= self.margin_audio_layer <= unfused or not takes_audio,
                f"an unfused layer, 0 to {unfused} with {self.num_deep} of {self.num_layers} layers fused",
            ),
        ):
            require_setting(holds, name, expected, getattr(self, name))

    @property
    def audio_step(self) -> float:
        """Seconds between two audio steps that the model takes."""
        return AUDIO_STEP * self.audio_stride

    @property
    def num_deep(self) -> int:
        """Deep transformer layers; none without a second modality or with `concat`."""
        return self.fusion_layers if self.fusion == "deep" and self.modalities[1:] else 0

    @property
    def widths(self) -> dict[str, int]:
        """Width of X^a, X^t and X^v, as far as the model has them."""
        every = {"audio": self.hidden_size, "text": self.text_size, "video": self.video_width * (2 if self.lvc else 1)}
        return {name: every[name] for name in self.modalities}

    @property
    def has_margin(self) -> bool:
        """Whether the margin loss is on: the paper omits it for a single modality (section 3.4)."""
        return len(self.modalities) > 1 and self.margin.weight > 0

    @property
    def input_layer(self) -> int:
        """The frozen audio layer whose output the model starts from; everything below it is cached."""
        lowest = self.num_layers - max(self.num_deep, self.trainable_layers)
        return min(lowest, self.margin_audio_layer) if self.has_margin and "audio" in self.modalities else lowest

    @property
    def input_layers(self) -> list[int]:
        """The frozen audio layers whose outputs the model takes."""
        return self.weighted_layers or [self.input_layer]

    def feature_shape(self, modality: str, steps: int) -> tuple[int, ...]:
        """Shape of an utterance's features of a modality: [steps, width], or [layers, steps, width] of several."""
        widths = {"audio": self.hidden_size, "text": self.text_size, "video": self.video_size}
        layers = {"audio": len(self.input_layers), "text": self.num_text_layers, "video": 1}[modality]
        return (*([layers] if layers > 1 else []), steps, widths[modality])

    def to_json(self) -> dict[str, Any]:
        """Return the nested dictionary that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "WavFusionConfig":
        """Rebuild a config from `to_json`; an unknown or missing key, or another type, raises `ConfigError`."""
        return validated(cls, values, "model config")
