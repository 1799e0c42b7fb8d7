"""The text encoder (eq. 5): RoBERTa, or another bidirectional encoder, over all sub-word tokens of a transcript."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from wavfusion.encoders import tiny
from wavfusion.encoders.checkpoint import FrozenEncoder, load_model, loading, save_checkpoint
from wavfusion.errors import ConfigError, counted

MAX_TOKENS = 192  # the longest utterances have 100 words (IEMOCAP) and 69 (MELD)
ROBERTA = ("roberta", "xlm-roberta", "camembert")
# Settings of other families that change how their tensors are run; RoBERTa's are in `checkpoint.LAYOUT`.
LAYOUT = (
    "position_embedding_type",
    "hidden_activation",
    "norm_eps",
    "local_attention",
    "global_attn_every_n_layers",
    "rope_parameters",
    "relative_attention",
    "max_relative_positions",
    "position_buckets",
    "pos_att_type",
    "share_att_key",
    "norm_rel_ebd",
    "position_biased_input",
    "conv_kernel_size",
)
TYPOGRAPHY = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\x92": "'"})


class TextEncoder(FrozenEncoder):
    """A bidirectional encoder with its tokenizer.

    Attributes:
        num_layers: outputs that `encode` gives with `all`; the embeddings count as one.
        max_tokens: of a text, special ones included; what is longer is cut.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        probe = tokenizer("Kids are talking by the door, aren't they? Ünïcode.")["input_ids"]
        vocabulary = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
        self.max_tokens = min(MAX_TOKENS, int(tokenizer.model_max_length), _positions(model))
        preprocessing = {"vocabulary": vocabulary, "probe": probe, "tokens": self.max_tokens}
        if model.config.model_type not in ROBERTA:
            preprocessing["layout"] = {key: getattr(model.config, key, None) for key in LAYOUT}
        super().__init__(model, name, int(model.config.hidden_size), preprocessing)
        self.tokenizer = tokenizer
        self.num_layers = int(model.config.num_hidden_layers) + 1

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], layers: Literal["last", "all"] = "last") -> list[Tensor]:
        """Encode texts; returns (tokens, width) each, or (layers, tokens, width) with `all`."""
        tokens = [
            self.tokenizer(normalized(text), truncation=True, max_length=self.max_tokens)["input_ids"] for text in texts
        ]
        padding = self.tokenizer.pad_token_id  # masked; RoBERTa counts positions by it
        ids = pad_sequence([torch.tensor(row) for row in tokens], batch_first=True, padding_value=padding or 0)
        lengths = torch.tensor([len(row) for row in tokens], device=self.device)
        mask = torch.arange(ids.shape[1], device=self.device) < lengths[:, None]
        with self.autocast():
            output = self.model(
                input_ids=ids.to(self.device), attention_mask=mask.long(), output_hidden_states=layers == "all"
            )
        features = torch.stack(output.hidden_states, 1) if layers == "all" else output.last_hidden_state
        return [features[i, ..., : len(row), :].float().cpu() for i, row in enumerate(tokens)]

    def count_cut(self, texts: Sequence[str]) -> int:
        """Count the texts of more than `max_tokens` tokens, whose ends no feature has."""
        if not texts:
            return 0
        # As in `encode`: a fast tokenizer keeps this setting, and other threads may be using it.
        cut = {"truncation": True, "max_length": self.max_tokens, "return_overflowing_tokens": True}
        rows = Counter(self.tokenizer([*map(normalized, texts)], **cut)["overflow_to_sample_mapping"])
        return sum(number > 1 for number in rows.values())

    def say_cut(self, number: int) -> str:
        """Warn of texts that `count_cut` found."""
        return (
            f"{counted(number, 'text')} of more than {self.max_tokens} tokens, the most that text encoder "
            f"{self.name!r} is given; their ends are left out"
        )

    def save(self, folder: Path) -> None:
        """Write model and tokenizer in the hub's file format, for `load_text`."""
        save_checkpoint(self.model, folder)
        self.tokenizer.save_pretrained(folder)


def load_text(name: str) -> TextEncoder:
    """Load a text encoder with its tokenizer: `tiny`, a local folder or a hub id.

    Raises:
        ConfigError: it cannot be read, is no bidirectional encoder, or lacks tensors or its tokenizer.
    """
    if name == "tiny":
        return TextEncoder(tiny.text_model(), tiny.tokenizer(), name)
    model = load_model(name, None)
    with loading(name):
        unfit = _unfit(model)
    if unfit:
        raise ConfigError(
            f"encoder {name!r}: expected a bidirectional text encoder, as BERT, RoBERTa, DeBERTa and ModernBERT are, "
            f"found a model of type {model.config.model_type!r}, {unfit}"
        )
    tokenizer = _load_tokenizer(name)
    tokens, rows = len(tokenizer), int(model.config.vocab_size)
    # Without its files the library silently makes a tokenizer of five special tokens.
    if not rows // 2 <= tokens <= rows:
        raise ConfigError(
            f"encoder {name!r}: expected the tokenizer of a model of {rows} tokens, found one of {tokens}"
        )
    if not tokenizer.is_fast:
        raise ConfigError(
            f"encoder {name!r}: expected a fast tokenizer (tokenizer.json), found {type(tokenizer).__name__}"
        )
    return TextEncoder(model, tokenizer, name)


def _load_tokenizer(name: str) -> Any:
    with loading(name):
        try:
            return transformers.AutoTokenizer.from_pretrained(name)
        except ValueError as error:
            if "tiktoken" not in str(error):  # the library's last resort for a file of SentencePiece
                raise
            raise ConfigError(
                f"encoder {name!r}: expected tokenizer.json, found a SentencePiece model that cannot be read, as "
                "DeBERTa-v3 has one; pip install sentencepiece protobuf"
            ) from error


@torch.inference_mode()
def _unfit(model: Any) -> str | None:
    """Say why a model is no bidirectional text encoder; None of one that is.

    Of a bidirectional encoder the first token's feature depends on the last token.
    """
    inputs = [model.input_modalities] if isinstance(model.input_modalities, str) else list(model.input_modalities)
    if model.main_input_name != "input_ids" or inputs != ["text"]:
        return f"which takes {' and '.join(inputs)}"
    if model.config.is_encoder_decoder:
        return "which has a decoder"
    first, other = model(input_ids=torch.tensor([[3, 4, 5], [3, 4, 6]])).last_hidden_state[:, 0]
    alike = torch.allclose(first, other, rtol=0, atol=1e-7)
    return "whose tokens do not attend to later ones" if alike else None


def _positions(model: Any) -> int:
    """The longest text that a model's table of positions holds; RoBERTa's counts from behind the padding's index."""
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, nn.Embedding):
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return MAX_TOKENS


def normalized(text: str) -> str:
    """Replace typographic quotes, dashes and ellipses by plain ones; half of a surrogate pair becomes a `?`."""
    return " ".join(text.translate(TYPOGRAPHY).encode("utf-8", "replace").decode().split())
