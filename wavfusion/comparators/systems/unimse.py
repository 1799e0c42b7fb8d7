"""UniMSE (Hu et al., EMNLP 2022, arXiv 2211.11256), one corpus: adapters in text layers, contrast, shared polarity."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from wavfusion.dialogues.attention import EncoderLayer
from wavfusion.dialogues.batch import UNLABELLED, DialogueBatch
from wavfusion.dialogues.losses import info_nce, turn_loss
from wavfusion.dialogues.model import DialogueModel
from wavfusion.model.sequence import masked_mean

SIZE, BOTTLENECK, CONTRAST = 32, 64, 30  # of audio and video vectors, of the adapters, of the contrasted vectors
HEADS, LAYERS = range(12, 0, -1), 3  # as many heads as divide the width, 12 at most
SMALL = 1e-3  # standard deviation of an adapter's first weights
POLARITIES, POLARITY_WEIGHT, CONTRAST_WEIGHT = 3, 0.5, 0.5


class Adapter(nn.Module):
    """Brings audio and video to every token behind a layer: W_o (z + W_u sigma(W_d z)), z = token, video, audio."""

    def __init__(self, width: int, extra: int) -> None:
        super().__init__()
        joined = width + extra
        self.down, self.up = nn.Linear(joined, BOTTLENECK), nn.Linear(BOTTLENECK, joined)
        self.out = nn.Linear(joined, width)
        for layer in (self.down, self.up, self.out):
            nn.init.normal_(layer.weight, 0.0, SMALL)

    def forward(self, x: Float[Tensor, "U T D"], extra: Float[Tensor, "U E"]) -> Float[Tensor, "U T D"]:
        """Map every token."""
        z = torch.cat([x, extra[:, None].expand(-1, x.shape[1], -1)], dim=-1)
        return self.out(z + self.up(self.down(z).sigmoid()))


class StepEncoder(nn.Module):
    """An LSTM over the steps of audio or video; 0 for a turn without any."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(width, SIZE, batch_first=True), nn.Linear(SIZE, SIZE)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "U T E"], mask: Bool[Tensor, "U T"]
    ) -> tuple[Float[Tensor, "U d"], Float[Tensor, "U d"]]:
        """Return the vector of the last step, and the mean of all."""
        outputs = self.lstm(x)[0]
        present = mask.any(1)[:, None]
        last = outputs[torch.arange(len(x), device=x.device), (mask.sum(1) - 1).clamp(min=0)]
        return self.fc(self.dropout(last)) * present, masked_mean(outputs, mask)


class UniMSE(DialogueModel):
    """The tokens of a turn and its neighbours, with audio and video of the turn in every layer.

    Args:
        widths: of the features, by modality; text is needed.
        num_classes: the number of emotions.
        dropout: of the layers.
        context_turns: neighbours on either side whose tokens are seen.
        polarity: of each emotion 0 (positive), 1 (neutral), 2 (negative) or -1 (none); None leaves that task out.
        contrast: pull text towards the turn's own audio and video (InfoNCE).
    """

    reads_steps = True

    def __init__(
        self,
        widths: Mapping[str, int],
        num_classes: int,
        *,
        dropout: float = 0.1,
        context_turns: int = 2,
        polarity: list[int] | None = None,
        contrast: bool = True,
    ) -> None:
        super().__init__(widths, num_classes)
        width, self.context_turns, self.contrast = self.widths["text"], context_turns, contrast
        self.encoders = nn.ModuleDict(
            {name: StepEncoder(size, 0.3) for name, size in self.widths.items() if name != "text"}
        )
        heads = next(number for number in HEADS if width % number == 0)
        self.segment = nn.Embedding(2, width)  # of the turn itself, and of its neighbours
        self.layers = nn.ModuleList(
            EncoderLayer(width, heads, 4 * width, F.gelu, norm="pre", dropout=dropout) for _ in range(LAYERS)
        )
        self.adapters = nn.ModuleList(Adapter(width, SIZE * len(self.encoders)) for _ in range(LAYERS))
        self.head = nn.Linear(width, num_classes)
        self.polarity_head = nn.Linear(width, POLARITIES)
        self.text_contrast = nn.Linear(width, CONTRAST, bias=False)
        self.step_contrast = nn.Linear(SIZE, CONTRAST, bias=False)
        self.polarity = polarity

    def forward(self, batch: DialogueBatch) -> Float[Tensor, "B N C"]:
        """Score every turn by the mean of its own tokens."""
        return self._scattered(self.head(self.turns(batch)[0]), batch)

    def turns(self, batch: DialogueBatch) -> tuple[Float[Tensor, "U D"], dict[str, Float[Tensor, "U d"]]]:
        """Return the vector of every real turn, and the mean steps of its audio and video."""
        x, mask, own = self._tokens(batch)
        vectors: list[Tensor] = []
        means: dict[str, Tensor] = {}
        for name, encoder in self.encoders.items():
            last, means[name] = encoder(*self._steps(batch, name))
            vectors.insert(0, last)  # video before audio, as published
        extra = torch.cat(vectors, dim=-1) if vectors else x.new_zeros(len(x), 0)
        own_place = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        allowed = mask[:, None, :] | own_place
        for layer, adapter in zip(self.layers, self.adapters, strict=True):
            x = adapter(layer(x, allowed), extra)
        return masked_mean(x, own), means

    def _steps(self, batch: DialogueBatch, name: str) -> tuple[Float[Tensor, "U T E"], Bool[Tensor, "U T"]]:
        """Pad the standardised steps of all real turns."""
        mean, deviation = self.get_buffer(f"{name}_mean"), self.get_buffer(f"{name}_deviation")
        every = [steps for dialogue in batch.steps[name] for steps in dialogue]
        filled = [steps.to(mean) if len(steps) else mean[None] for steps in every]
        x = pad_sequence([(steps - mean) / deviation for steps in filled], batch_first=True)
        count = torch.tensor([len(steps) for steps in every], device=x.device)
        return x, torch.arange(x.shape[1], device=x.device) < count[:, None]

    def _tokens(self, batch: DialogueBatch) -> tuple[Float[Tensor, "U T D"], Bool[Tensor, "U T"], Bool[Tensor, "U T"]]:
        """Join the tokens of each turn and its neighbours; also which are real, and which are the turn's own."""
        mean, deviation = self.get_buffer("text_mean"), self.get_buffer("text_deviation")
        joined, own = [], []
        for dialogue in batch.steps["text"]:
            tokens = [(steps.to(mean) - mean) / deviation for steps in dialogue]
            for i in range(len(tokens)):
                near = range(max(0, i - self.context_turns), min(len(tokens), i + self.context_turns + 1))
                kinds = torch.cat([torch.full((len(tokens[j]),), int(j != i), device=mean.device) for j in near])
                joined.append(torch.cat([tokens[j] for j in near]) + self.segment(kinds))
                own.append(kinds == 0)
        count = torch.tensor([len(x) for x in joined], device=mean.device)
        x = pad_sequence(joined, batch_first=True)
        x = x if x.shape[1] else x.new_zeros(len(x), 1, x.shape[2])
        real = torch.arange(x.shape[1], device=x.device) < count[:, None]
        mine = pad_sequence(own, batch_first=True)
        return x, real, F.pad(mine, (0, x.shape[1] - mine.shape[1])) & real

    def _scattered(self, rows: Float[Tensor, "U C"], batch: DialogueBatch) -> Float[Tensor, "B N C"]:
        out = rows.new_zeros(*batch.mask.shape, rows.shape[-1])
        return out.index_put(torch.nonzero(batch.mask, as_tuple=True), rows)

    def loss(self, batch: DialogueBatch) -> Float[Tensor, ""]:
        """Cross-entropy of emotion and polarity, and the contrast between text and each other modality."""
        turns, means = self.turns(batch)
        total = turn_loss(self._scattered(self.head(turns), batch), batch.label, self.get_buffer("class_weights"))
        if self.polarity is not None:
            scores = self._scattered(self.polarity_head(turns), batch)
            total = total + POLARITY_WEIGHT * turn_loss(scores, self._polarities(batch.label))
        if self.contrast and len(turns) > 1:
            text = self.text_contrast(turns)
            for name, mean in means.items():
                both = (batch.present[name] & batch.present["text"])[batch.mask]
                if both.sum() > 1:
                    total = total + CONTRAST_WEIGHT * info_nce(text[both], self.step_contrast(mean[both]))
        return total

    def _polarities(self, label: Int[Tensor, "B N"]) -> Int[Tensor, "B N"]:
        """The polarity of each label."""
        known = torch.tensor([*(self.polarity or ()), UNLABELLED], device=label.device)
        return known[label]  # the last stands for turns without a label
