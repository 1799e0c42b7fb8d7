"""Families of encoders that load, as `wavfusion encoders` lists them; every model type of a loader has its row."""

from dataclasses import dataclass

RANDOM = "random weights"
HOW_TO_ADD = "`wavfusion encoders` lists all, CONTRIBUTING.md says how to add one"


@dataclass(frozen=True)
class Family:
    """Models of one form.

    Attributes:
        modality: `audio`, `text` or `video`.
        type: the `model_type` of their config.json.
        models: what they are called.
        example: the hub id of one.
        verified: weights with which the features equalled Hugging Face's own hidden states.
    """

    modality: str
    type: str
    models: str
    example: str
    verified: str = RANDOM


FAMILIES = (
    Family("audio", "wav2vec2", "wav2vec 2.0, XLS-R, MMS", "facebook/wav2vec2-base"),
    Family("audio", "hubert", "HuBERT, DistilHuBERT", "facebook/hubert-base-ls960"),
    Family("audio", "wavlm", "WavLM", "microsoft/wavlm-base-plus"),
    Family("audio", "unispeech-sat", "UniSpeech-SAT", "microsoft/unispeech-sat-base-plus"),
    Family("audio", "data2vec-audio", "data2vec", "facebook/data2vec-audio-base"),
    Family("audio", "whisper", "Whisper's encoder", "openai/whisper-base", "real: whisper-base"),
    Family("text", "bert", "BERT, MiniLM, BGE", "sentence-transformers/all-MiniLM-L6-v2", "real: all-MiniLM-L6-v2"),
    Family("text", "roberta", "RoBERTa", "FacebookAI/roberta-base"),
    Family("text", "xlm-roberta", "XLM-R, multilingual E5", "FacebookAI/xlm-roberta-base"),
    Family("text", "distilbert", "DistilBERT", "distilbert/distilbert-base-uncased"),
    Family("text", "deberta-v2", "DeBERTa v3", "microsoft/deberta-v3-base"),
    Family("text", "modernbert", "ModernBERT", "answerdotai/ModernBERT-base"),
    Family("text", "mpnet", "MPNet", "sentence-transformers/all-mpnet-base-v2"),
    Family("text", "any", "other bidirectional AutoModels", "google/electra-base-discriminator", "not tried"),
    Family("video", "efficientnet", "EfficientNet", "google/efficientnet-b0"),
    Family("video", "clip", "CLIP", "openai/clip-vit-base-patch32"),
    Family("video", "siglip", "SigLIP", "google/siglip-base-patch16-224"),
    Family("video", "siglip2", "SigLIP 2", "google/siglip2-base-patch16-naflex"),
    Family("video", "dinov2", "DINOv2", "facebook/dinov2-base"),
    Family("video", "vit", "ViT", "google/vit-base-patch16-224"),
    Family("video", "convnext", "ConvNeXt", "facebook/convnext-tiny-224"),
    Family("video", "swin", "Swin", "microsoft/swin-tiny-patch4-window7-224"),
    Family("video", "resnet", "ResNet", "microsoft/resnet-50"),
    Family("video", "any", "other AutoModels of images", "facebook/regnet-y-040", "not tried"),
)
