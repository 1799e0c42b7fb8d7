"""The emotions of every corpus: class order (the number of an emotion is its place), raw codes and label sets."""

EMOTIONS: dict[str, list[str]] = {
    "iemocap": ["happy", "sad", "neutral", "angry", "excited", "frustrated"],
    "meld": ["neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"],
    "ravdess": ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"],
    "cremad": ["angry", "disgust", "fearful", "happy", "neutral", "sad"],
}

IEMOCAP_WORDS: dict[str, str] = {
    "happiness": "happy",
    "sadness": "sad",
    "neutral": "neutral",
    "anger": "angry",
    "excited": "excited",
    "frustration": "frustrated",
    "surprise": "surprised",
    "fear": "fearful",
    "disgust": "disgusted",
    "other": "other",
}
# The other spelling of IEMOCAP's EmoEvaluation files, its first letters; None: the annotators found no majority.
IEMOCAP_CODES: dict[str, str | None] = {word[:3]: emotion for word, emotion in IEMOCAP_WORDS.items()} | {"xxx": None}

RAVDESS_CODES: dict[str, str] = {f"{code:02d}": emotion for code, emotion in enumerate(EMOTIONS["ravdess"], start=1)}

CREMAD_CODES: dict[str, str] = dict(zip(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"), EMOTIONS["cremad"], strict=True))

# Label sets of `prepare --labels`, the default first: set -> classes.
LABEL_SETS: dict[str, dict[str, list[str]]] = {
    "iemocap": {
        "six": EMOTIONS["iemocap"],
        "six-dialoguernn": EMOTIONS["iemocap"],
        "four": ["happy", "sad", "neutral", "angry"],
        "raw": [*EMOTIONS["iemocap"], "surprised", "fearful", "disgusted", "other"],
    },
}
# Emotions that a label set merges: set -> {emotion: the emotion it counts as}.
MERGED: dict[str, dict[str, str]] = {"four": {"excited": "happy"}}

# The 53 utterances without a majority label that the features of the DialogueRNN family count as happy, from the tables
# of TelME compared with the lists of DialogXL: dialogue -> last parts of the utterance ids.
_DIALOGUERNN_HAPPY = {
    "Ses01F_impro03": "F007 F011 F014 M012",
    "Ses01F_impro06": "M017",
    "Ses01F_impro07": "F007",
    "Ses01M_impro03": "F000",
    "Ses01M_impro07": "F002",
    "Ses02F_impro03": "F002 F005 F006 F007 F020",
    "Ses02M_impro03": "F010 F026 F027",
    "Ses03F_impro02": "M003",
    "Ses03F_impro03": "F000 F003 F010 M003 M008 M013 M016 M019",
    "Ses03F_impro04": "M020",
    "Ses03F_impro07": "F000 F002 F006 M016 M020 M031",
    "Ses03M_impro02": "F001",
    "Ses03M_impro03": "F000 F019 M005 M006 M008 M009 M010 M024 M025 M026 M027 M034 M036 M037",
    "Ses03M_impro05a": "F017",
    "Ses03M_impro07": "F020 M001 M012 M021",
    "Ses05F_impro07": "F010",
}
DIALOGUERNN_HAPPY: frozenset[str] = frozenset(
    f"{dialogue}_{part}" for dialogue, parts in _DIALOGUERNN_HAPPY.items() for part in parts.split()
)
