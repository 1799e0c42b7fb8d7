"""The text encoder (eq. 5): a RoBERTa over all sub-word tokens of a transcript."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from wavfusion.encoders import tiny
from wavfusion.encoders.checkpoint import FrozenEncoder, load_model, loading, save_checkpoint
from wavfusion.errors import ConfigError
from wavfusion.fast.encoders import skip_onednn_gelu

MAX_TOKENS = 192  # the longest utterances have 100 words (IEMOCAP) and 69 (MELD)
FAMILY = ("roberta", "xlm-roberta", "camembert")
TYPOGRAPHY = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\x92": "'"})


class TextEncoder(FrozenEncoder):
    """A RoBERTa with its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        probe = tokenizer("Kids are talking by the door, aren't they? Ünïcode.")["input_ids"]
        vocabulary = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
        preprocessing = {"vocabulary": vocabulary, "probe": probe, "tokens": MAX_TOKENS}
        super().__init__(model, name, int(model.config.hidden_size), preprocessing)
        self.tokenizer = tokenizer
        self.num_layers = int(model.config.num_hidden_layers) + 1  # the embeddings count as one

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], layers: Literal["last", "all"] = "last") -> list[Tensor]:
        """Encode texts; returns (tokens, width) each, or (layers, tokens, width) with `all`."""
        tokens = [
            self.tokenizer(normalized(text), truncation=True, max_length=MAX_TOKENS)["input_ids"] for text in texts
        ]
        padding = self.model.config.pad_token_id
        ids = pad_sequence([torch.tensor(row) for row in tokens], batch_first=True, padding_value=padding)
        lengths = torch.tensor([len(row) for row in tokens], device=self.device)
        mask = torch.arange(ids.shape[1], device=self.device) < lengths[:, None]
        with self.autocast():
            output = self.model(
                input_ids=ids.to(self.device), attention_mask=mask.long(), output_hidden_states=layers == "all"
            )
        features = torch.stack(output.hidden_states, 1) if layers == "all" else output.last_hidden_state
        return [features[i, ..., : len(row), :].float().cpu() for i, row in enumerate(tokens)]

    def quick(self) -> "TextEncoder":
        """A twin that shares the tensors; on a CPU it takes no memory for every new length."""
        twin = self.twin()
        if self.device.type == "cpu":
            skip_onednn_gelu(twin.model)
        return twin

    def save(self, folder: Path) -> None:
        """Write model and tokenizer in the hub's file format, for `load_text`."""
        save_checkpoint(self.model, folder)
        self.tokenizer.save_pretrained(folder)


def load_text(name: str) -> TextEncoder:
    """Load a text encoder with its tokenizer: `tiny`, a local folder or a hub id.

    Raises:
        ConfigError: it cannot be read, is of another family, or lacks tensors.
    """
    if name == "tiny":
        return TextEncoder(tiny.text_model(), tiny.tokenizer(), name)
    model = load_model(name, FAMILY)
    with loading(name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    tokens, rows = len(tokenizer), int(model.config.vocab_size)
    # Without its files the library silently makes a tokenizer of five special tokens.
    if not rows // 2 <= tokens <= rows:
        raise ConfigError(
            f"encoder {name!r}: expected the tokenizer of a model of {rows} tokens, found one of {tokens}"
        )
    return TextEncoder(model, tokenizer, name)


def normalized(text: str) -> str:
    """Replace typographic quotes, dashes and ellipses by plain ones; half of a surrogate pair becomes a `?`."""
    return " ".join(text.translate(TYPOGRAPHY).encode("utf-8", "replace").decode().split())
