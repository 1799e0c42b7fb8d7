"""`encoders`: families of encoders that load, and the shipped presets."""

from dataclasses import asdict

from wavfusion.cli import options as opt
from wavfusion.cli.output import show


def encoders(json: opt.Json = False) -> None:
    """List the families of encoders that load, and the presets."""
    from wavfusion.encoders.families import FAMILIES
    from wavfusion.encoders.presets import PRESETS

    rows = [("", "model_type", "models", "for example", "verified with")]
    rows += [(each.modality, each.type, each.models, each.example, each.verified) for each in FAMILIES]
    names = [("preset", "audio", "text", "video")]
    names += [(name, each.audio, each.text, each.video) for name, each in PRESETS.items()]
    lines = [*_columns(rows), "", *_columns(names)]
    lines += ["", "`verified with`: weights whose features were compared with Hugging Face's own hidden states (1e-5)"]
    families, presets = list(map(asdict, FAMILIES)), {name: asdict(each) for name, each in PRESETS.items()}
    show({"families": families, "presets": presets}, "\n".join(lines), json)


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
