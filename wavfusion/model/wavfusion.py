"""WavFusion on cached features: the assembly of figure 1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from wavfusion.model.attention import Relative, RelativePositions, positions, xavier
from wavfusion.model.config import MODALITIES, TEXT_HEADS, VIDEO_HEADS, WavFusionConfig
from wavfusion.model.fusion import DeepLayer, SelfAttentionLayer, Source, TransformerLayer
from wavfusion.model.losses import ABSENT, SharedEncoder, hinge_sums, margin_loss, task_loss
from wavfusion.model.mult import MulT
from wavfusion.model.sequence import AGRU, AGRULVC, masked_mean, masked_moments

TOKEN_STEP = 0.3  # seconds a sub-word token takes where neither audio nor video gives the duration
NUM_QUERIES = 32  # learned queries that stand in for absent audio
TIME_MASK_LENGTH = 10  # steps of one time mask, as in wav2vec 2.0's fine-tuning


@dataclass
class WavFusionOutput:
    """Everything that a forward pass names.

    Attributes:
        logits: scores of the emotions.
        pooled: what the head classifies: the fused utterance.
        loss: the total of eq. 15, or None without labels.
        losses: its parts by name, unweighted.
        gates: the text weight P of every deep layer (eq. 10); empty without both branches.
        steps: which steps of the audio stream are real, stand-in queries among them; None without deep layers.
        hidden: the audio stream before the first layer and after each.
        means: of the unfused X^a, X^t and X^v over their time: what eq. 12 takes.
        vectors: the shared space's vector of each modality (eq. 12).
    """

    logits: Float[Tensor, "B C"]
    pooled: Float[Tensor, "B E"] | None = None
    loss: Float[Tensor, ""] | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    gates: list[Tensor] = field(default_factory=list)
    steps: Tensor | None = None
    hidden: list[Tensor] = field(default_factory=list)
    means: dict[str, Tensor] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)


def weighted_sum(
    weights: Float[Tensor, " L"], layers: Float[Tensor, "B L T E"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T E"]:
    """Sum stored layers by the softmax of learned weights; 0 at padding."""
    return torch.einsum("l,blte->bte", weights.softmax(0), layers.masked_fill(~mask[:, None, :, None], 0.0))


class TextBranch(nn.Module):
    """Text features to X^t: a weighting of the stored layers where there are several, then A-GRU (eq. 6)."""

    def __init__(self, config: WavFusionConfig) -> None:
        super().__init__()
        weighted = config.text_layers == "weighted" and config.num_text_layers > 1
        self.layer_weights = nn.Parameter(torch.zeros(config.num_text_layers)) if weighted else None
        self.agru = AGRU(config.text_size, TEXT_HEADS, config.dropout, config.bidirectional)

    def forward(
        self, text: Float[Tensor, "B Tt E"] | Float[Tensor, "B L Tt E"], mask: Bool[Tensor, "B Tt"]
    ) -> Float[Tensor, "B Tt E"]:
        """Encode the tokens; 0 at padding."""
        if self.layer_weights is not None:
            text = weighted_sum(self.layer_weights, text, mask)
        return self.agru(text, mask)


class VideoBranch(nn.Module):
    """Frame vectors to X^v: narrowed to e^v, then A-GRU-LVC (eq. 2-4), or A-GRU alone (table 4)."""

    def __init__(self, config: WavFusionConfig) -> None:
        super().__init__()
        width = config.video_width
        self.entry = nn.Linear(config.video_size, width)
        self.entry_norm = nn.LayerNorm(width)
        self.block = (
            AGRULVC(width, VIDEO_HEADS, config.dropout, pool=config.lvc_pool, bidirectional=config.bidirectional)
            if config.lvc
            else AGRU(width, VIDEO_HEADS, config.dropout, config.bidirectional)
        )

    def forward(self, video: Float[Tensor, "B Tv E"], mask: Bool[Tensor, "B Tv"]) -> Float[Tensor, "B Tv Dv"]:
        """Encode the frames; 0 at padding."""
        return self.block(self.entry_norm(self.entry(video)), mask)


class WavFusion(nn.Module):
    """The trainable network: unmodified layers, deep layers, auxiliary encoders, shared space and head.

    It takes every subset of the modalities that it was built with: None where the batch lacks a modality, an
    all-False mask row where a sample does.
    """

    hinges = staticmethod(hinge_sums)  # of the margin loss

    def __init__(self, config: WavFusionConfig) -> None:
        super().__init__()
        self.config = config
        width, names, widths = config.hidden_size, config.modalities, config.widths
        self.text_encoder = TextBranch(config) if "text" in names else None
        self.video_encoder = VideoBranch(config) if "video" in names else None
        weighted = len(config.weighted_layers) if "audio" in names else 0
        self.audio_layer_weights = nn.Parameter(torch.zeros(weighted)) if weighted else None
        first_deep = config.num_layers - config.num_deep
        shallow = range(config.input_layer, first_deep if "audio" in names else 0)
        self.layers = nn.ModuleList(SelfAttentionLayer(config) for _ in shallow)
        self.deep_layers = nn.ModuleList(DeepLayer(config) for _ in range(config.num_deep))
        self.relative = None
        if config.position_buckets > 0 and (len(self.layers) > 0 or config.keep_self_attn):
            self.relative = RelativePositions(config.position_buckets, config.position_distance, config.num_heads)
        self.final_norm = nn.LayerNorm(width, eps=config.layer_norm_eps) if config.pre_norm else None
        if config.num_deep:
            self.queries = nn.Parameter(torch.randn(NUM_QUERIES, width))
            same = widths.get("text", width) == width
            self.text_map = nn.Identity() if same else self._source_map(widths["text"], width)
            self.video_map = self._source_map(widths["video"], width) if "video" in names else nn.Identity()
        self.shared_encoder = SharedEncoder(widths, config.margin.size) if config.has_margin else None
        self.head_dropout = nn.Dropout(config.dropout if config.head_dropout is None else config.head_dropout)
        self.cross_modal = None
        if config.fusion == "mult" and len(names) > 1:
            self.cross_modal = MulT(widths, width // 2, config.num_heads, config.fusion_layers, config.dropout)
        self.widths = self.cross_modal.widths if self.cross_modal is not None else widths
        outputs = (config.num_deep or len(self.layers)) + 1 if config.num_deep or "audio" in names else 1
        several = config.pooled_layers == "weighted" and outputs > 1
        self.output_weights = nn.Parameter(torch.zeros(outputs)) if several else None
        self._pool, moments = (masked_mean, 1) if config.pooling == "mean" else (masked_moments, 2)
        pooled = width if config.num_deep else sum(self.widths.values())
        self.head = nn.Linear(moments * pooled, len(config.classes))
        self.class_weights: Tensor  # of the balanced task loss
        self.register_buffer("class_weights", torch.ones(len(config.classes)))
        self._freeze()

    @staticmethod
    def _source_map(source: int, width: int) -> nn.Module:
        """U, one for all deep layers, with a LayerNorm to the scale of the audio."""
        linear = nn.Linear(source, width)
        xavier(linear)
        return nn.Sequential(linear, nn.LayerNorm(width))

    def forward(
        self,
        audio: Float[Tensor, "B Ta D"] | Float[Tensor, "B L Ta D"] | None,
        audio_mask: Bool[Tensor, "B Ta"] | None,
        text: Float[Tensor, "B Tt E"] | Float[Tensor, "B L Tt E"] | None,
        text_mask: Bool[Tensor, "B Tt"] | None,
        video: Float[Tensor, "B Tv F"] | None,
        video_mask: Bool[Tensor, "B Tv"] | None,
        labels: Int[Tensor, " B"] | Float[Tensor, "B C"] | None = None,
    ) -> WavFusionOutput:
        """Classify utterances from frozen features (audio: the outputs of `config.input_layers`).

        Raises:
            ValueError: no tensor at all, an empty one, or one of a modality that the model does not have.
        """
        given = self._inputs(audio, audio_mask, text, text_mask, video, video_mask)
        masks = self._drop_modalities({name: mask for name, (_, mask) in given.items()})
        features = {
            name: x.masked_fill(~masks[name][..., None], 0.0) if x.dim() == 3 else x for name, (x, _) in given.items()
        }
        streams, hidden = self._encode(features, masks)
        gates: list[Tensor] = []
        steps: Tensor | None = None
        if self.config.num_deep:
            pooled, steps = self._fuse(streams, masks, hidden, gates)
        else:
            pooled = self._concatenate({**streams, "audio": self._outcome(hidden)} if hidden else streams, masks)
        means = self._unfused_means(streams, masks, hidden)
        logits = self.head(self.head_dropout(pooled))
        output = WavFusionOutput(logits, pooled, gates=gates, steps=steps, hidden=hidden, means=means)
        vectors = None if self.shared_encoder is None else self.shared_encoder(means)
        if vectors is not None:
            output.vectors = dict(zip(means, vectors, strict=True))
        if labels is not None:
            present = torch.stack([mask.any(1) for mask in masks.values()])
            output.losses = self.losses(logits, vectors, present, labels)
            output.loss = output.losses["task"]
            if vectors is not None:
                output.loss = output.loss + self.config.margin.weight * output.losses["margin"]
        return output

    def losses(
        self,
        logits: Float[Tensor, "B C"],
        vectors: Float[Tensor, "M B d"] | None,
        present: Bool[Tensor, "M B"],
        labels: Int[Tensor, " B"] | Float[Tensor, "B C"],
    ) -> dict[str, Tensor]:
        """Compute the parts of eq. 15, unweighted; `present` says which modalities each sample has."""
        weights = self.class_weights if self.config.task_loss == "balanced" else None
        parts = {"task": task_loss(logits, labels, weights, self.config.label_smoothing)}
        if vectors is not None:
            emotion = labels.argmax(-1) if labels.is_floating_point() else labels
            numbers = torch.arange(len(vectors), device=present.device)[:, None].where(present, ABSENT)
            margin = self.config.margin
            parts["margin"] = margin_loss(
                vectors=vectors.flatten(0, 1),
                modality=numbers.flatten(),
                label=emotion.repeat(len(vectors)),
                alpha=margin.alpha,
                reduction=margin.reduction,
                hinges=self.hinges,
            )
        return parts

    def _inputs(self, *tensors: Tensor | None) -> dict[str, tuple[Tensor, Tensor]]:
        given: dict[str, tuple[Tensor, Tensor]] = {}
        for name, x, mask in zip(MODALITIES, tensors[::2], tensors[1::2], strict=True):
            if (x is None) != (mask is None):
                raise ValueError(f"{name}: expected a tensor and its mask, or None for both")
            if x is not None and mask is not None:
                if name not in self.config.modalities:
                    raise ValueError(f"{name}: this model was built for {'+'.join(self.config.modalities)}")
                if mask.numel() == 0:
                    raise ValueError(f"{name}: expected an utterance and a step or more, found a mask {[*mask.shape]}")
                given[name] = (x, mask)
        if not given:
            raise ValueError("expected at least one modality, found None for all")
        if "audio" in given:
            x, mask = given["audio"]
            stride = self.config.audio_stride
            given["audio"] = x[..., ::stride, :], mask[:, ::stride]
        return given

    def _encode(
        self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Run the encoders of the single modalities; returns X^a, X^t, X^v and the audio stream's steps so far."""
        streams: dict[str, Tensor] = {}
        hidden: list[Tensor] = []
        if "audio" in features:
            audio = features["audio"]
            if self.audio_layer_weights is not None:
                audio = weighted_sum(self.audio_layer_weights, audio, masks["audio"])
            audio = self._mask_times(audio)
            hidden.append(audio)
            relative = self._relative(audio) if len(self.layers) else None
            for layer in self.layers:
                hidden.append(layer(hidden[-1], masks["audio"], relative))
            streams["audio"] = hidden[-1]
        if self.text_encoder is not None and "text" in features:
            streams["text"] = self.text_encoder(features["text"], masks["text"])
        if self.video_encoder is not None and "video" in features:
            streams["video"] = self.video_encoder(features["video"], masks["video"])
        return streams, hidden

    def _fuse(
        self, streams: Mapping[str, Tensor], masks: Mapping[str, Tensor], hidden: list[Tensor], gates: list[Tensor]
    ) -> tuple[Float[Tensor, "B D"], Bool[Tensor, "B Ta"]]:
        """Run the deep layers (eq. 8-11) and pool; appends to `hidden` and `gates`, and returns the real steps too."""
        audio, mask = self.with_queries(streams, masks)
        hidden[:] = hidden or [audio]
        times = self._clock(masks, mask) if self.config.time_positions else {}
        clock = {name: positions(seconds, self.config.hidden_size) for name, seconds in times.items()}
        text, video = (
            Source(to_width(streams[name]), masks[name], clock.get(name)) if name in streams else None
            for name, to_width in (("text", self.text_map), ("video", self.video_map))
        )
        relative = self._relative(audio) if self.config.keep_self_attn else None
        outputs = [audio]
        for layer in self.deep_layers:
            audio, gate = layer(audio, mask, text, video, clock.get("audio"), relative)
            outputs.append(audio)
            if gate is not None:
                gates.append(gate)
        hidden += outputs[1:]
        pooled = self._pool(self._outcome(outputs), mask)
        return pooled + 0 * self.queries.sum(), mask  # so that unused queries have a gradient of 0, not none

    def _outcome(self, outputs: Sequence[Float[Tensor, "B Ta D"]]) -> Float[Tensor, "B Ta D"]:
        """Normalise the last output, or weight all, each normalised, by the softmax of learned weights."""
        normed = nn.Identity() if self.final_norm is None else self.final_norm
        if self.output_weights is None:
            return normed(outputs[-1])
        weights = self.output_weights.softmax(0)
        return sum((weights[i] * normed(x) for i, x in enumerate(outputs)), torch.zeros_like(outputs[-1]))

    def with_queries(
        self, streams: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "B Ta D"], Bool[Tensor, "B Ta"]]:
        """Let the learned queries stand in where a sample has no audio."""
        if "audio" not in streams:
            size = next(iter(masks.values())).shape[0]
            mask = torch.ones(size, NUM_QUERIES, dtype=torch.bool, device=self.queries.device)
            return self.queries.expand(size, -1, -1), mask
        audio, mask = streams["audio"], masks["audio"]
        absent = ~mask.any(1)[:, None]
        short = max(0, NUM_QUERIES - audio.shape[1])
        audio, mask = F.pad(audio, (0, 0, 0, short)), F.pad(mask, (0, short))
        stand_in = F.pad(self.queries, (0, 0, 0, audio.shape[1] - NUM_QUERIES))
        audio = torch.where(absent[..., None], stand_in.to(audio.dtype), audio)
        steps = torch.arange(audio.shape[1], device=audio.device)
        return audio, mask | (absent & (steps < NUM_QUERIES))

    def _concatenate(self, streams: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Float[Tensor, "B E"]:
        """Pool every modality by itself and join them (table 6, row 1; the single modalities of table 3; MulT)."""
        fused, first = {name: streams[name] for name in masks}, next(iter(masks.values()))
        if self.cross_modal is not None:
            fused = self.cross_modal(fused, masks, self._clock(masks, masks.get("audio", first)))
        size, device = first.shape[0], first.device
        moments = self.head.in_features // sum(self.widths.values())
        absent = {name: torch.zeros(size, moments * width, device=device) for name, width in self.widths.items()}
        pooled = absent | {name: self._pool(x, masks[name]) for name, x in fused.items()}
        return torch.cat(list(pooled.values()), dim=-1)

    def _unfused_means(
        self, streams: Mapping[str, Tensor], masks: Mapping[str, Tensor], hidden: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Average the unfused X^a, X^t and X^v over time, as eq. 12 takes them."""
        unfused = dict(streams)
        if "audio" in streams:
            # Without a margin loss the setting may name a layer that is not among the unfused ones: the nearest then.
            number = self.config.margin_audio_layer - self.config.input_layer
            audio = hidden[min(max(number, 0), len(self.layers))]
            unfused["audio"] = audio if self.final_norm is None else self.final_norm(audio)
        return {name: masked_mean(unfused[name], masks[name]) for name in masks}

    def _clock(self, masks: Mapping[str, Tensor], audio_mask: Tensor) -> dict[str, Tensor]:
        """The seconds of every stream's steps; tokens and stand-in queries are spread over the utterance."""

        def spread(count: Tensor, length: int) -> Tensor:
            return (torch.arange(length, device=count.device) + 0.5) / count.clamp(min=1)[:, None] * duration[:, None]

        none = torch.zeros(audio_mask.shape[0], device=audio_mask.device)
        count = {name: masks[name].sum(1) if name in masks else none for name in MODALITIES}
        duration = torch.maximum(count["audio"] * self.config.audio_step, count["video"] / self.config.frame_rate)
        duration = torch.where(duration > 0, duration, count["text"] * TOKEN_STEP)
        steps = torch.arange(audio_mask.shape[1], device=audio_mask.device) * self.config.audio_step
        steps = steps + self.config.audio_centre
        times = {
            "audio": torch.where(count["audio"][:, None] > 0, steps, spread(audio_mask.sum(1), audio_mask.shape[1]))
        }
        if "text" in masks:
            times["text"] = spread(count["text"], masks["text"].shape[1])
        if "video" in masks:
            frames = torch.arange(masks["video"].shape[1], device=audio_mask.device) + 0.5
            times["video"] = (frames / self.config.frame_rate).expand(audio_mask.shape[0], -1)
        return times

    def _drop_modalities(self, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Drop modalities of training samples at random, never all that a sample has."""
        probability = self.config.modality_dropout
        if not self.training or probability == 0:
            return masks
        present = torch.stack([mask.any(1) for mask in masks.values()])
        keep = (torch.rand(present.shape, device=present.device) >= probability) & present
        keep = torch.where(keep.any(0), keep, present)
        return {name: mask & kept[:, None] for (name, mask), kept in zip(masks.items(), keep, strict=True)}

    def _relative(self, audio: Tensor) -> Relative | None:
        """WavLM's relative positions of the audio steps, in the steps of its pre-training."""
        stride = self.config.audio_stride
        return None if self.relative is None else self.relative(audio.shape[1] * stride)[:, ::stride, ::stride]

    def _mask_times(self, audio: Tensor) -> Tensor:
        """Zero random spans of the cached audio in training (SpecAugment's time masks; Park et al. 2019)."""
        fraction = self.config.time_mask
        if not self.training or fraction == 0:
            return audio
        probability = 1 - (1 - fraction) ** (1 / TIME_MASK_LENGTH)  # of a span to start at a step; spans may overlap
        starts = (torch.rand(audio.shape[:2], device=audio.device) < probability).float()
        spans = F.max_pool1d(F.pad(starts, (TIME_MASK_LENGTH - 1, 0))[:, None], TIME_MASK_LENGTH, stride=1)[:, 0]
        return audio.masked_fill(spans[..., None] > 0, 0.0)

    def load_pretrained(self, encoder: Mapping[str, Tensor]) -> None:
        """Start from an audio checkpoint's transformer: its state dict (`layers.9.attention.q_proj.weight`, ...)."""
        layers = [*self.layers, *self.deep_layers]
        for number, layer in enumerate(layers, start=self.config.num_layers - len(layers)):
            assert isinstance(layer, TransformerLayer)
            prefix = f"layers.{number}."
            layer.load_pretrained({key.removeprefix(prefix): x for key, x in encoder.items() if key.startswith(prefix)})
        if self.final_norm is not None:
            self.final_norm.load_state_dict({name: encoder[f"layer_norm.{name}"] for name in ("weight", "bias")})
        if self.relative is not None:
            embedding = encoder["layers.0.attention.rel_attn_embed.weight"]
            self.relative.load_state_dict({"rel_attn_embed.weight": embedding})

    @torch.no_grad()
    def start_from(self, other: "WavFusion") -> None:
        """Start from another model on the same audio encoder: from its tensors of the same layer, name and shape.

        Of the head only the rows of emotions that both know are taken, by name.
        """
        theirs = other._by_layer()
        for name, x in self._by_layer().items():
            if name in theirs and theirs[name].shape == x.shape:
                x.copy_(theirs[name])
        if self.head.in_features == other.head.in_features:
            names = [name for name in self.config.classes if name in other.config.classes]
            ours, rows = ([each.config.classes.index(name) for name in names] for each in (self, other))
            self.head.weight[ours] = other.head.weight[rows]
            self.head.bias[ours] = other.head.bias[rows]

    def _by_layer(self) -> dict[str, Tensor]:
        """The tensors that do not depend on the emotions, those of layers by their number in the audio encoder."""
        deep = self.config.num_layers - len(self.deep_layers)
        first = {"layers": deep - len(self.layers), "deep_layers": deep}
        named = dict[str, Tensor]()
        for name, x in self.state_dict().items():
            stack, *rest = name.split(".")
            if stack in first:
                name = ".".join(["layers", str(first[stack] + int(rest[0])), *rest[1:]])
            elif stack == "audio_layer_weights":
                name += str(self.config.weighted_layers)
            if stack not in ("head", "class_weights"):
                named[name] = x
        return named

    def pretrained_names(self) -> set[str]:
        """Names of the parameters that a checkpoint filled, and whose inputs are distributed as in its training.

        Copied keys and values of the cross-attentions are not among them: text and video are not in the audio's basis.
        """

        def is_pretrained(name: str) -> bool:
            if "_attention." in name:
                return self.config.init_cross == "pretrained_all" and ("q_proj" in name or "out_proj" in name)
            of_parent = name.startswith(("layers.", "deep_layers.", "final_norm.", "relative."))
            return of_parent and "gate." not in name and "cross_scale" not in name

        return {name for name, _ in self.named_parameters() if is_pretrained(name)}

    def _freeze(self) -> None:
        """Stop learning in the pretrained tensors below the trainable layers."""
        stacks = {"layers": self.layers, "deep_layers": self.deep_layers}
        layers = [f"{stack}.{number}." for stack, some in stacks.items() for number in range(len(some))]
        trainable = self.config.trainable_layers
        frozen = (*layers[: max(0, len(layers) - trainable)], "relative.", *(() if trainable else ("final_norm.",)))
        for name in self.pretrained_names():
            if name.startswith(frozen):
                self.get_parameter(name).requires_grad_(False)

    def train(self, mode: bool = True) -> "WavFusion":
        """Switch to training; wholly frozen layers stay without dropout."""
        super().train(mode)
        for layer in self.layers:
            if not any(parameter.requires_grad for parameter in layer.parameters()):
                layer.eval()
        return self
