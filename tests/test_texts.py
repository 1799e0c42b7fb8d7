"""Text encoders of the families that people use, by random checkpoints with tokenizers of their own kind."""

import json
import logging
from dataclasses import replace

import pytest
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import TemplateProcessing

from tests.test_encoders import SMALL, largest_difference, random_model, save_text_checkpoint
from wavfusion.encoders import load_text, tiny
from wavfusion.encoders.bundle import load_encoders
from wavfusion.encoders.presets import PRESETS
from wavfusion.encoders.text import MAX_TOKENS, TextEncoder
from wavfusion.errors import ConfigError
from wavfusion.features.extract import extract
from wavfusion.features.store import Store
from wavfusion.manifest import read_corpus
from wavfusion.prediction.recognizer import EmotionRecognizer

pytest_plugins = ("corpus_fixture", "real")

TEXTS = ["Kids sit.", "dogs are talking by the door", "", "kids sit" + " kids sit" * 9]
WORDS = ["kids", "are", "talk", "##ing", "by", "the", "door", "dogs", "sit", "##s", ".", "a"]
PIECES = ["▁kids", "▁are", "▁talk", "ing", "▁by", "▁the", "▁door", "▁dogs", "▁sit", "s", ".", "▁", "a", "K", "i", "d"]


def bert(folder):
    """BERT, MiniLM, E5 and BGE: WordPiece; MiniLM's tokenizer.json itself cuts and pads at 128 tokens."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = transformers.BertTokenizer(vocab={word: i for i, word in enumerate([*special, *WORDS])})
    tokenizer._tokenizer.enable_truncation(max_length=128)
    tokenizer._tokenizer.enable_padding(length=128)
    tokenizer.save_pretrained(folder)
    config = transformers.BertConfig(vocab_size=len(tokenizer), layer_norm_eps=1e-12, **SMALL)
    return random_model(transformers.BertModel, config)


def xlm_roberta(folder):
    """XLM-R, multilingual E5 and BGE-M3: a unigram model, positions that begin behind the padding's index."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = [(piece, 0.0) for piece in special] + [(piece, -1.0 - i) for i, piece in enumerate(PIECES)]
    tokenizer = transformers.XLMRobertaTokenizer(vocab=[*vocabulary, ("<mask>", 0.0)])
    tokenizer.save_pretrained(folder)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
    return random_model(transformers.XLMRobertaModel, transformers.XLMRobertaConfig(**sizes, **SMALL))


def deberta_v3(folder):
    """DeBERTa-v3: a unigram model, log-bucketed relative positions alone, keys shared with the positions'."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    vocabulary = [(piece, 0.0) for piece in special] + [(piece, -1.0 - i) for i, piece in enumerate(PIECES)]
    tokenizer = transformers.DebertaV2Tokenizer(vocab=[*vocabulary, ("[MASK]", 0.0)], unk_id=3)
    tokenizer.save_pretrained(folder)
    flags = {
        "relative_attention": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
    }
    config = transformers.DebertaV2Config(vocab_size=len(tokenizer), pad_token_id=0, **flags, **SMALL)
    return random_model(transformers.DebertaV2Model, config)


def modernbert(folder):
    """ModernBERT: rotary positions, every third layer attends to the whole text, the others to some tokens around."""
    bpe = ByteLevelBPETokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    bpe.train_from_iterator(["kids are talking by the door", "dogs sit"], vocab_size=290, special_tokens=special)
    ends = [("[CLS]", 1), ("[SEP]", 2)]
    bpe._tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{word[1:-1].lower()}_token": word for word in special}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, model_max_length=8192, **names)
    tokenizer.save_pretrained(folder)
    flags = {"local_attention": 8, "global_attn_every_n_layers": 3, "pad_token_id": 3}
    flags |= {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    sizes = {**SMALL, "num_hidden_layers": 4, "vocab_size": len(tokenizer)}
    return random_model(transformers.ModernBertModel, transformers.ModernBertConfig(**flags, **sizes))


def roberta(folder):
    """RoBERTa: bytes, as the hub has it, with the head of its training."""
    return save_text_checkpoint(folder).roberta


FAMILIES = [bert, xlm_roberta, deberta_v3, modernbert, roberta]


@pytest.fixture(params=FAMILIES, ids=lambda make: make.__name__)
def checkpoint(request, tmp_path):
    """The folder of a random checkpoint, and the library's model."""
    model = request.param(tmp_path)
    if request.param is not roberta:
        model.save_pretrained(tmp_path)
    return tmp_path, model


def test_every_token_of_a_text_has_the_library_s_hidden_states_in_all_layers(checkpoint):
    folder, model = checkpoint
    encoder, tokenizer = load_text(str(folder)), transformers.AutoTokenizer.from_pretrained(folder)
    together = encoder.encode(TEXTS, "all")
    for text, features in zip(TEXTS, together, strict=True):
        with torch.no_grad():
            inputs = tokenizer([text], return_tensors="pt", padding=False, truncation=False)
            output = model(**inputs, output_hidden_states=True)
        assert features.shape[1] == inputs["input_ids"].shape[1]
        assert largest_difference(features, torch.stack(output.hidden_states)[:, 0]) < 1e-5
        assert largest_difference(encoder.encode([text])[0], output.last_hidden_state[0]) < 1e-5
    assert len({tuple(each[-1, 0].tolist()) for each in together}) > 1


def test_a_text_encoder_from_the_hub_is_saved_and_loaded_with_the_same_fingerprint(checkpoint, tmp_path):
    encoder = load_text(str(checkpoint[0]))
    encoder.save(tmp_path / "copy")
    again = load_text(str(tmp_path / "copy"))
    assert again.fingerprint == encoder.fingerprint
    assert torch.equal(again.encode(TEXTS[1:2])[0], encoder.encode(TEXTS[1:2])[0])


def test_a_long_text_keeps_its_first_tokens_and_the_last_special_one(checkpoint):
    encoder = load_text(str(checkpoint[0]))
    ids = transformers.AutoTokenizer.from_pretrained(checkpoint[0])("kids " * 400, truncation=False)["input_ids"]
    with torch.no_grad():
        inputs = torch.tensor([[*ids[: MAX_TOKENS - 1], ids[-1]]])
        expected = encoder.model(input_ids=inputs).last_hidden_state[0]
    assert largest_difference(encoder.encode(["kids " * 400])[0], expected) < 1e-5


def test_a_checkpoint_that_lacks_a_tensor_or_has_one_of_another_shape_is_refused_in_one_line(checkpoint):
    folder, model = checkpoint
    lost = next(key for key, _ in reversed([*model.named_parameters()]) if key.endswith("weight") and "pool" not in key)
    tensors = model.state_dict()
    model.save_pretrained(folder, state_dict={key: x for key, x in tensors.items() if key != lost})
    with pytest.raises(ConfigError, match=rf"^[^\n]*1 are missing, first '{lost}'$"):
        load_text(str(folder))
    model.save_pretrained(folder, state_dict={**tensors, lost: tensors[lost][..., 1:].clone()})
    shape = tuple(tensors[lost].shape)
    with pytest.raises(ConfigError, match=rf"^[^\n]*'{lost}': expected \({shape[0]},[^\n]*found [^\n]*$"):
        load_text(str(folder))


# ---------------------------------------------------------------------- longest text


def test_texts_that_are_cut_are_counted_by_their_tokens():
    encoder = load_text("tiny")
    word = next(each for each in ("a", "I", "the") if len(encoder.encode([f"{each} " * 9])[0]) == 11)
    assert encoder.count_cut([]) == 0
    assert [encoder.count_cut([f"{word} " * number]) for number in (189, 190, 191)] == [0, 0, 1]
    assert encoder.count_cut(["hi", f"{word} " * 191, f"{word} " * 900]) == 2


def test_a_tokenizer_without_a_limit_does_not_lead_beyond_the_positions_of_the_model(tmp_path):
    """Beyond them the library ends in an index error; RoBERTa's first position is the third row of its table."""
    config = transformers.RobertaConfig(vocab_size=700, max_position_embeddings=50, pad_token_id=1, **SMALL)
    tokenizer = tiny.tokenizer()
    tokenizer.model_max_length = 10**30
    encoder = TextEncoder(random_model(transformers.RobertaModel, config), tokenizer, "x")
    assert encoder.max_tokens == len(encoder.encode(["the door " * 100])[0]) == 48


@pytest.fixture
def long_rows(made):
    """A made corpus in which two of the transcripts are longer than the text encoder takes."""
    rows = made.data.part("test")
    long = {rows[0].id: "the door is open and " * 60, rows[1].id: "kids are talking " * 80}
    return [replace(row, text=long.get(row.id, row.text), audio=None, video=None) for row in rows]


def test_extraction_says_once_how_many_texts_were_cut_and_at_what_length(made, long_rows, tmp_path, caplog):
    encoders = load_encoders("tiny", PRESETS["tiny"], ["text"])
    with caplog.at_level(logging.WARNING, "wavfusion"):
        summary = extract(long_rows, read_corpus(made.manifest), Store(tmp_path / "store", create=True), encoders)
    said = [record.getMessage() for record in caplog.records]
    assert summary.cut_texts == 2
    assert said == [
        "text: 2 texts of more than 192 tokens, the most that text encoder 'tiny' is given; their ends are left out"
    ]


def test_prediction_says_that_a_transcript_was_cut(trained, made, caplog):
    recognizer = EmotionRecognizer.from_pretrained(trained, device="cpu")
    path = made.root / made.data.part("test")[0].video.path
    with caplog.at_level(logging.WARNING, "wavfusion"):
        recognizer.predict(path, "the door is open and " * 60)
        recognizer.predict(path, "the door is open")
    said = [record.getMessage() for record in caplog.records if "tokens" in record.getMessage()]
    assert len(said) == 1 and "1 text of more than 192 tokens" in said[0] and path.name in said[0]


# ---------------------------------------------------------------------- refused


def test_a_bert_that_was_made_a_decoder_is_refused(tmp_path):
    model = bert(tmp_path)
    model.config.is_decoder = True
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="type 'bert', whose tokens do not attend to later ones"):
        load_text(str(tmp_path))


def test_a_tokenizer_in_sentencepiece_s_format_alone_says_what_to_install(tmp_path):
    """DeBERTa-v3 of the hub has no other; the library asks for tiktoken, which does not help."""
    deberta_v3(tmp_path).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "vocab_type": "spm"}))
    (tmp_path / "spm.model").write_bytes(b"no model of SentencePiece")
    with pytest.raises(ConfigError, match=r"^[^\n]*expected tokenizer.json, [^\n]*pip install sentencepiece protobuf$"):
        load_text(str(tmp_path))


# ---------------------------------------------------------------------- real weights


@pytest.mark.slow
def test_the_real_minilm_gives_the_library_s_hidden_states(minilm):
    """Its own tokenizer.json cuts at 128 tokens, and pads to as many."""
    encoder, model = load_text(str(minilm)), transformers.AutoModel.from_pretrained(minilm).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    texts = ["Kids are talking by the door.", "the door is open and " * 30]
    for text, features in zip(texts, encoder.encode(texts, "all"), strict=True):
        inputs = tokenizer([text], return_tensors="pt", padding=False, truncation=False)
        with torch.no_grad():
            expected = torch.stack(model(**inputs, output_hidden_states=True).hidden_states)[:, 0]
        assert largest_difference(features, expected) < 1e-5
    assert (encoder.width, encoder.num_layers, encoder.max_tokens) == (384, 7, MAX_TOKENS)
    assert encoder.count_cut([*texts, "the door is open and " * 40]) == 1
