"""The systems over dialogues: what each must hold alone and beside others, and the constants of its description."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavfusion.comparators.systems import SYSTEMS
from wavfusion.comparators.systems.cogmen import COGMEN
from wavfusion.comparators.systems.haan import HAAN, SpeakerEncoder
from wavfusion.comparators.systems.hitrans import HiTrans
from wavfusion.comparators.systems.mmgcn import MMGCN, quasi_focal
from wavfusion.comparators.systems.unimse import Adapter
from wavfusion.dialogues.attention import past_turns, real_pairs, same_speaker, sinusoids
from wavfusion.dialogues.batch import DialogueBatch, DialogueVectors, collate_dialogues
from wavfusion.dialogues.graphs import GCNIILayer, GraphAttention, RelationalConvolution, angular_graph, angular_weight
from wavfusion.dialogues.losses import focal_loss, info_nce
from wavfusion.dialogues.model import DialogueModel
from wavfusion.dialogues.recurrence import TurnRNN, by_speaker

WIDTHS = {"audio": 24, "text": 24, "video": 40}
OURS = {"audio": 768, "text": 768, "video": 1280}
PUBLISHED = {"audio": 1582, "text": 100, "video": 342}
CLASSES = 4
# Small enough for a test, with every part in place.
SMALL: dict[str, dict[str, Any]] = {
    "dialoguetrm": {"width": 24},
    "hitrans": {},
    "dialogxl": {"width": 24, "layers": 2, "head_width": 16},
    "mmgcn": {"width": 24},
    "cogmen": {"width": 16},
    "mmdfn": {"width": 24, "layers": 4},
    "m2fnet": {"width": 16, "fusions": 2},
    "unimse": {"polarity": [0, 1, 2, -1]},
    "haan": {"width": 16},
    "turn_mlp": {"width": 16},
    "turn_gru": {"width": 16},
}
PAST = {"dialogxl": {}} | {
    name: {"past": True} for name in ("dialoguetrm", "hitrans", "cogmen", "m2fnet", "haan", "turn_gru")
}
every_system = pytest.mark.parametrize("name", SYSTEMS)


def make(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    widths = {each: WIDTHS[each] for each in getattr(SYSTEMS[name], "modalities", WIDTHS)}
    model: Any = SYSTEMS[name](widths, CLASSES, **{**SMALL[name], **settings}).eval()
    if name == "unimse":  # its adapters begin so small that every turn has nearly the same scores
        for parameter in model.adapters.parameters():
            nn.init.normal_(parameter, 0.0, 0.3)
    return model


def conversation(lengths: list[int], seed: int = 0, speakers: int = 2, pad: int = 0) -> DialogueBatch:
    draw = torch.Generator().manual_seed(seed)
    size = max(lengths) + pad
    mask = torch.arange(size) < torch.tensor(lengths)[:, None]
    vectors = {
        name: torch.randn(len(lengths), size, width, generator=draw) * mask[..., None] for name, width in WIDTHS.items()
    }
    slot = torch.randint(speakers, mask.shape, generator=draw)
    slot[:, 0] = 0
    label = torch.randint(CLASSES, mask.shape, generator=draw)
    ids = [[f"{row}-{turn}" for turn in range(length)] for row, length in enumerate(lengths)]
    present = {name: mask.clone() for name in WIDTHS}
    steps = {
        name: [
            [x[row, turn] + torch.randn(1 + (row + turn) % 3, x.shape[-1], generator=draw) for turn in range(length)]
            for row, length in enumerate(lengths)
        ]
        for name, x in vectors.items()
    }
    slot, label = slot.masked_fill(~mask, -1), label.masked_fill(~mask, -1)
    return DialogueBatch(ids, vectors, present, mask, slot, label, steps)


def changed(batch: DialogueBatch, row: int, turn: int, names: tuple[str, ...] = tuple(WIDTHS)) -> DialogueBatch:
    vectors = {name: x.clone() for name, x in batch.vectors.items()}
    steps = {name: [list(each) for each in some] for name, some in batch.steps.items()}
    for name in names:
        vectors[name][row, turn] += 3.0
        steps[name][row][turn] = steps[name][row][turn] + 3.0
    return replace(batch, vectors=vectors, steps=steps)


def alone(batch: DialogueBatch, row: int, count: int) -> DialogueBatch:
    cut = {name: getattr(batch, name)[row : row + 1, :count] for name in ("mask", "slot", "label")}
    vectors, present = (
        {name: x[row : row + 1, :count] for name, x in each.items()} for each in (batch.vectors, batch.present)
    )
    steps = {name: [each[row][:count]] for name, each in batch.steps.items()}
    return DialogueBatch([batch.ids[row]], vectors, present, **cut, steps=steps)


@torch.no_grad()
def logits(model: nn.Module, batch: DialogueBatch) -> Tensor:
    return model(batch)


# ------------------------------------------------------------------ every system


@every_system
def test_a_dialogue_alone_is_scored_as_beside_others_and_behind_padding(name: str) -> None:
    model, batch = make(name), conversation([7, 12, 1])
    first = logits(model, alone(batch, 0, 7))[0]
    torch.testing.assert_close(logits(model, batch)[0, :7], first, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(model, changed(batch, 1, 3))[0, :7], first, atol=1e-5, rtol=0)
    one = logits(model, alone(batch, 2, 1))[0]
    torch.testing.assert_close(logits(model, batch)[2, :1], one, atol=1e-5, rtol=0)


@every_system
def test_a_dialogue_of_one_turn_and_a_turn_without_any_modality_are_finite(name: str) -> None:
    model = make(name).train()
    for batch in (conversation([1]), conversation([5, 3])):
        present = {each: has.clone() for each, has in batch.present.items()}
        for has in present.values():
            has[0, -1] = False
        steps = {each: [list(some) for some in every] for each, every in batch.steps.items()}
        for every in steps.values():
            every[0][-1] = every[0][-1][:0]
        for some in (batch, replace(batch, present=present, steps=steps)):
            model.zero_grad()
            loss = model.loss(some)
            loss.backward()
            assert loss.isfinite()
            assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", PAST)
def test_a_causal_system_scores_a_turn_before_later_ones_are_known(name: str) -> None:
    model, batch = make(name, **PAST[name]), conversation([9])
    before, after = logits(model, batch), logits(model, changed(batch, 0, 6))
    assert torch.equal(before[0, :6], after[0, :6])
    assert (before[0, 6:] - after[0, 6:]).abs().max() > 1e-4
    torch.testing.assert_close(logits(model, alone(batch, 0, 6))[0], before[0, :6], atol=1e-5, rtol=0)


@every_system
def test_a_system_that_sees_the_whole_dialogue_lets_later_turns_change_earlier_ones(name: str) -> None:
    model, batch = make(name), conversation([7])
    before, after = logits(model, batch), logits(model, changed(batch, 0, 6))
    earlier = (before[0, :6] - after[0, :6]).abs().max()
    assert (earlier > 1e-4) == (SYSTEMS[name].sees == "whole")


@pytest.mark.parametrize("name", ["dialoguetrm", "hitrans", "dialogxl", "mmdfn", "haan"])
def test_exchanging_the_names_of_the_speakers_changes_nothing_where_only_same_and_other_count(name: str) -> None:
    model, batch = make(name), conversation([8])
    swapped = replace(batch, slot=1 - batch.slot)
    torch.testing.assert_close(logits(model, swapped), logits(model, batch), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.loss(swapped), model.loss(batch))
    other = batch.slot.clone()
    other[0, 3] = 1 - other[0, 3]
    moved = replace(batch, slot=other)
    assert not torch.allclose(model.loss(moved), model.loss(batch))


def test_exchanging_the_names_of_the_speakers_changes_what_embeds_them() -> None:
    batch = conversation([8])
    swapped = replace(batch, slot=1 - batch.slot)
    mmgcn, pair, relative = make("mmgcn"), make("cogmen"), make("cogmen", relations="relative")
    assert (logits(mmgcn, swapped) - logits(mmgcn, batch)).abs().max() > 1e-4
    assert (logits(pair, swapped) - logits(pair, batch)).abs().max() > 1e-4
    torch.testing.assert_close(logits(relative, swapped), logits(relative, batch), atol=1e-5, rtol=0)


@every_system
def test_an_unlabelled_turn_adds_nothing_to_the_loss_but_is_context(name: str) -> None:
    model, batch = make(name), conversation([6])
    if isinstance(model, HiTrans):
        model.pair.requires_grad_(False).weight.zero_()
    label = batch.label.clone()
    label[0, 2] = -1
    without = replace(batch, label=label)
    kept = [0, 1, 3, 4, 5]
    if name not in ("hitrans", "mmdfn", "unimse"):  # their losses are more than this
        expected = F.cross_entropy(model(without)[0, kept], batch.label[0, kept])
        torch.testing.assert_close(model.loss(without), expected)
    none = replace(batch, label=torch.full_like(label, -1))
    if name not in ("hitrans", "unimse"):
        assert model.loss(none).item() == 0
    before, after = logits(model, without), logits(model, changed(without, 0, 2))
    assert ((before[0, 3:] - after[0, 3:]).abs().max() > 1e-4) == (name != "turn_mlp")


@every_system
def test_every_parameter_learns(name: str) -> None:
    model = make(name).train()
    model.loss(conversation([9, 8])).backward()
    still = [each for each, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    unused = ["layers.0.attention_norm.weight", "layers.0.attention_norm.bias"] if name == "hitrans" else []
    assert [each for each in still if not each.endswith(("k_proj.bias", "key.bias"))] == unused


# Rate and settings with which a small one learns in some hundred steps; text alone where three modalities are slow.
LEARNING: dict[str, tuple[float, dict[str, Any]]] = {
    "turn_gru": (4e-3, {}),
    "hitrans": (2e-3, {"head_dropout": 0.0, "layers": 2}),  # one layer of heads of 4 channels finds no place
    "m2fnet": (1e-3, {"places": True}),  # as published it has no order, and knows no speaker
    "haan": (3e-4, {"width": 32}),
}
SLOW_ON_ALL = ("cogmen",)


def learner(name: str) -> tuple[Any, Callable[[DialogueBatch], None]]:
    """A small system without dropout, and what makes one step of its training."""
    rate, settings = LEARNING.get(name, (2e-3, {}))
    torch.manual_seed(0)
    widths = {each: WIDTHS[each] for each in getattr(SYSTEMS[name], "modalities", WIDTHS)}
    widths = {"text": WIDTHS["text"]} if name in SLOW_ON_ALL else widths
    model = SYSTEMS[name](widths, CLASSES, **{**SMALL[name], "dropout": 0.0, **settings}).train()
    optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.0)

    def step(batch: DialogueBatch) -> None:
        optimiser.zero_grad()
        model.loss(batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    return model, step


def share_right(model: nn.Module, batch: DialogueBatch) -> float:
    model.eval()
    right = (logits(model, batch).argmax(-1) == batch.label)[batch.label >= 0]
    model.train()
    return float(right.float().mean())


@pytest.mark.slow
@every_system
def test_a_system_can_learn_any_labels(name: str) -> None:
    """Eight dialogues with random labels; each turn is told from the others by its features."""
    model, step = learner(name)
    batch, best = conversation([6, 5, 8, 3, 7, 4, 6, 5]), 0.0
    for number in range(400):
        step(batch)
        if number % 25 == 24 and (best := max(best, share_right(model, batch))) >= 0.95:
            break
    assert best >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SYSTEMS if name not in ("turn_mlp", "unimse")])
def test_a_system_finds_a_label_that_the_previous_turn_of_the_speaker_holds(name: str) -> None:
    """The label of a turn is the sign of a channel of the same speaker's previous turn; no turn tells its own.

    UniMSE's neighbours have neither order nor speaker, so that it cannot.
    """
    model, step = learner(name)
    held, best = _previous(100_000), 0.0
    for number in range(800):
        step(_previous(number))
        if number % 25 == 24 and (best := max(best, share_right(model, held))) >= 0.9:
            break
    assert best >= 0.9


@pytest.mark.slow
def test_a_turn_by_itself_cannot_tell_what_the_previous_one_holds() -> None:
    model, step = learner("turn_mlp")
    for number in range(200):
        step(_previous(number))
    assert share_right(model, _previous(100_000)) < 0.65


def _previous(seed: int) -> DialogueBatch:
    """Turns that alternate between two speakers in 32 dialogues of 6."""
    batch = conversation([6] * 32, seed)
    signs = torch.randint(2, (32, 6), generator=torch.Generator().manual_seed(seed + 1))
    vectors = {name: 0.3 * x for name, x in batch.vectors.items()}
    for x in vectors.values():
        x[:, :, 0] = 3.0 * (2.0 * signs - 1)
    label = torch.full((32, 6), -1)
    label[:, 2:] = signs[:, :-2]
    slot = (torch.arange(6) % 2).expand(32, 6).clone()
    return replace(batch, vectors=vectors, label=label, slot=slot)


@pytest.mark.parametrize(
    ("name", "widths", "classes", "settings", "count"),
    [
        ("dialoguetrm", OURS, 6, {}, 31_318_790),
        ("hitrans", OURS, 7, {}, 4_439_051),
        ("hitrans", OURS, 6, {}, 4_438_282),
        ("dialogxl", OURS, 6, {}, 22_271_958),
        ("mmgcn", PUBLISHED, 6, {}, 994_506),
        ("mmgcn", PUBLISHED, 6, {"layers": 64}, 2_194_506),
        ("mmgcn", OURS, 6, {}, 1_152_906),
        ("mmgcn", OURS, 6, {"layers": 64}, 2_352_906),
        ("cogmen", OURS, 6, {}, 27_581_374),
        ("mmdfn", PUBLISHED, 6, {}, 1_556_506),
        ("mmdfn", PUBLISHED, 6, {"layers": 32}, 1_876_506),
        ("mmdfn", OURS, 6, {}, 1_714_906),
        ("mmdfn", OURS, 6, {"layers": 32}, 2_034_906),
        ("m2fnet", OURS, 6, {}, 27_980_294),
        ("unimse", OURS, 6, {}, 23_810_441),
        ("haan", OURS, 6, {}, 79_427_090),
    ],
)
def test_a_system_has_the_parameters_of_its_description(
    name: str, widths: dict[str, int], classes: int, settings: dict[str, Any], count: int
) -> None:
    kept = {each: widths[each] for each in getattr(SYSTEMS[name], "modalities", widths)}
    with torch.device("meta"):
        model = SYSTEMS[name](kept, classes, **settings)
    assert sum(p.numel() for p in model.parameters()) == count


def test_cogmen_has_the_published_parameters_without_our_two_projections() -> None:
    with torch.device("meta"):
        model = COGMEN(OURS, 6)
    project = sum(p.numel() for p in model.project.parameters())
    assert sum(p.numel() for p in model.parameters()) - project == 26_848_602


def test_haan_has_the_published_parameters_with_four_text_vectors() -> None:
    with torch.device("meta"):
        model = HAAN({"audio": 100, "text": 1024, "video": 512}, 6)
        selectors = [p for name, p in model.named_parameters() if "selector" in name]
    assert sum(p.numel() for p in model.parameters()) + 3 * 2 * 1024 == 78_829_586
    assert sum(p.numel() for p in selectors) == 6 * 1_575_938


# ------------------------------------------------------------------ DialogueTRM


def test_dialoguetrm_keeps_audio_to_its_turn_and_text_to_its_chunk_and_its_speakers_next_turns() -> None:
    model, batch = make("dialoguetrm"), conversation([30])
    before = logits(model, batch)[0]
    audio = (logits(model, changed(batch, 0, 9, ("audio",)))[0] - before).abs().amax(-1) > 1e-6
    assert audio.nonzero().flatten().tolist() == [9]
    text = (logits(model, changed(batch, 0, 9, ("text",)))[0] - before).abs().amax(-1) > 1e-6
    speaker = [turn for turn in range(10, 24) if batch.slot[0, turn] == batch.slot[0, 9]]
    chunks = {9 // 7, *(turn // 7 for turn in speaker)}
    assert text.nonzero().flatten().tolist() == [turn for turn in range(30) if turn // 7 in chunks]


def test_dialoguetrm_has_no_places_within_a_chunk() -> None:
    """With one speaker a turn no earlier turns are averaged, so that permuting a chunk permutes its scores."""
    model, batch = make("dialoguetrm"), conversation([7])
    batch = replace(batch, slot=torch.arange(7)[None])
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    vectors = {name: x[:, order] for name, x in batch.vectors.items()}
    found = logits(model, replace(batch, vectors=vectors))
    torch.testing.assert_close(found, logits(model, batch)[:, order], atol=1e-5, rtol=0)


def test_a_wide_open_gate_of_dialoguetrm_passes_its_first_modality() -> None:
    model = make("dialoguetrm")
    gate = model.gates[0]
    nn.init.constant_(gate.gate.bias, 20.0)
    nn.init.zeros_(gate.gate.weight)
    a, b, h_a, h_b = torch.randn(4, 5, 24).unbind()
    torch.testing.assert_close(gate(a, b, h_a, h_b), h_a, atol=1e-6, rtol=0)


# ------------------------------------------------------------------ HiTrans


def test_hitrans_halves_the_sum_of_its_losses_at_equal_scales() -> None:
    model, batch = make("hitrans"), conversation([5, 3])
    turns = model.turns(batch)
    emotion = F.cross_entropy(model.head(turns)[batch.mask], batch.label[batch.mask])
    scores, targets = [], []
    for row, length in enumerate([5, 3]):
        first, second = model.first(turns)[row], model.second(turns)[row]
        for i in range(length):
            for j in range(length):
                u, v = (torch.cat([each, torch.ones(1)]) for each in (first[i], second[j]))
                scores.append(torch.stack([u @ weight @ v for weight in model.pair.weight]))
                targets.append(int(batch.slot[row, i] == batch.slot[row, j]))
    pairs = F.cross_entropy(torch.stack(scores), torch.tensor(targets))
    assert len(scores) == 5 * 5 + 3 * 3
    torch.testing.assert_close(model.loss(batch), 0.5 * (emotion + pairs))


def test_sinusoids_are_sines_and_cosines_of_falling_rates() -> None:
    found = sinusoids(3, 4, torch.zeros(1))
    expected = [
        [0.0, 1.0, 0.0, 1.0],
        *([math.sin(n), math.cos(n), math.sin(n / 100), math.cos(n / 100)] for n in (1, 2)),
    ]
    torch.testing.assert_close(found, torch.tensor(expected))


# ------------------------------------------------------------------ DialogXL


def test_dialogxl_learns_from_no_earlier_turn() -> None:
    model, batch = make("dialogxl"), conversation([6])
    text = batch.vectors["text"].requires_grad_()
    model(batch)[0, 4].sum().backward()
    assert text.grad is not None
    assert not text.grad[0, [0, 1, 2, 3, 5]].any() and text.grad[0, 4].any()


def test_dialogxl_equals_a_recurrence_with_a_memory_without_gradient() -> None:
    """Turn by turn, keys and values of earlier turns from a list; the biases are not all 0."""
    model, batch = make("dialogxl"), conversation([6])
    allowed = model.allowed(batch)
    for layer in model.layers:
        nn.init.normal_(layer.attention.age_bias)
    with torch.no_grad():
        memories: list[list[Tensor]] = [[] for _ in model.layers]
        for turn in range(6):
            x = model.to_width(batch.vectors["text"][0, turn])
            for layer, memory in zip(model.layers, memories, strict=True):
                normed, attention = layer.attention_norm(x), layer.attention
                memory.append(normed)
                heads = []
                for head in range(attention.num_heads):
                    part = slice(head * 2, head * 2 + 2)
                    seen = [j for j in range(turn + 1) if allowed[0, head, turn, j]]
                    q = attention.q_proj(normed)[part]
                    scores = torch.stack(
                        [
                            q @ attention.k_proj(memory[j])[part] / 2**0.5 + attention.age_bias[head, turn - j]
                            for j in seen
                        ]
                    ).softmax(0)
                    values = torch.stack([attention.v_proj(memory[j])[part] for j in seen])
                    heads.append(scores @ values)
                x = x + attention.out_proj(torch.cat(heads))
                x = x + layer.contract(F.gelu(layer.expand(layer.final_norm(x))))
            torch.testing.assert_close(model.head(x), logits(model, batch)[0, turn], atol=1e-5, rtol=0)


def test_dialogxl_heads_see_near_turns_all_the_same_speaker_and_the_others() -> None:
    model, batch = make("dialogxl", window=2), conversation([6])
    batch = replace(batch, slot=torch.tensor([[0, 1, 0, 0, 1, 0]]))
    seen = [model.allowed(batch)[0, head, 5].nonzero().flatten().tolist() for head in (0, 2, 4, 8)]
    assert seen == [[3, 4, 5], [0, 1, 2, 3, 4, 5], [0, 2, 3, 5], [1, 4, 5]]
    monologue = model.allowed(replace(batch, slot=torch.zeros(1, 6, dtype=torch.long)))
    assert monologue[0, 8].equal(torch.eye(6, dtype=torch.bool))


# ------------------------------------------------------------------ MMGCN and MM-DFN


def test_angular_weights_are_those_of_equal_orthogonal_and_opposite_directions() -> None:
    found = angular_weight(torch.tensor([1.0, 0.0, -1.0]))
    torch.testing.assert_close(found, torch.tensor([0.9985765, 0.5, 0.0014235]), atol=2e-6, rtol=0)


def test_a_turn_of_three_orthogonal_modalities_has_the_described_adjacency() -> None:
    found = angular_graph(torch.eye(3)[None, :, None], torch.ones(1, 3, 1, dtype=torch.bool))[0]
    own, other = torch.full((3,), 0.4996439), torch.full((6,), 0.2501781)
    torch.testing.assert_close(found.diagonal(), own, atol=1e-6, rtol=0)
    torch.testing.assert_close(found[~torch.eye(3, dtype=torch.bool)], other, atol=1e-6, rtol=0)


def test_a_graph_of_equal_nodes_spreads_evenly() -> None:
    found = angular_graph(torch.ones(1, 3, 4, 5), torch.ones(1, 3, 4, dtype=torch.bool))[0]
    torch.testing.assert_close(found.sum(-1), torch.ones(12))
    torch.testing.assert_close(found[found > 0], torch.full((12 * 6,), 1 / 6))


def test_a_node_that_is_absent_is_joined_to_itself_alone() -> None:
    real = torch.ones(1, 3, 4, dtype=torch.bool)
    real[0, 1, 2] = False
    found = angular_graph(torch.randn(1, 3, 4, 5), real)[0, 6]
    assert found[6] == 1 and found.count_nonzero() == 1


def test_the_graph_is_that_of_loops_over_its_edges() -> None:
    x = torch.randn(1, 3, 4, 5)
    weights = torch.zeros(12, 12)
    for m in range(3):
        for i in range(4):
            for n in range(3):
                for j in range(4):
                    if m == n or i == j:
                        cosine = F.cosine_similarity(x[0, m, i], x[0, n, j], dim=0)
                        weights[4 * m + i, 4 * n + j] = 1 - math.acos(0.99999 * float(cosine)) / math.pi
    scale = weights.sum(1) ** -0.5
    found = angular_graph(x, torch.ones(1, 3, 4, dtype=torch.bool))[0]
    torch.testing.assert_close(found, scale[:, None] * weights * scale, atol=1e-5, rtol=0)


def test_layers_of_the_graph_weigh_their_maps_less_and_less() -> None:
    found = [GCNIILayer(4, depth).theta for depth in (1, 2, 3, 4, 64)]
    assert found == pytest.approx([0.405465, 0.223144, 0.154151, 0.117783, 0.007782], abs=1e-6)


def test_the_published_loss_of_mmgcn_on_meld_is_no_focal_loss() -> None:
    uniform, label = torch.zeros(1, 1, 7), torch.zeros(1, 1, dtype=torch.long)
    assert float(quasi_focal(uniform, label)) == pytest.approx(5.808620, abs=1e-5)


def test_the_focal_loss_is_that_of_its_formula() -> None:
    uniform, label = torch.zeros(1, 1, 6), torch.zeros(1, 1, dtype=torch.long)
    assert float(focal_loss(uniform, label, 1.0)) == pytest.approx(1.493133, abs=1e-5)
    assert float(focal_loss(uniform, label, 0.5)) == pytest.approx(1.635645, abs=1e-5)


def test_permuting_turns_permutes_audio_nodes_of_mmgcn_but_not_text_nodes() -> None:
    model, batch, order = make("mmgcn"), conversation([6]), torch.tensor([2, 0, 5, 1, 4, 3])
    vectors = {name: x[:, order] for name, x in batch.vectors.items()}
    moved = replace(batch, vectors=vectors, slot=batch.slot[:, order])
    audio, text, _ = model.nodes(batch).unbind(1)
    moved_audio, moved_text, _ = model.nodes(moved).unbind(1)
    torch.testing.assert_close(moved_audio, audio[:, order])
    assert (moved_text - text[:, order]).abs().max() > 1e-4


class Copy(nn.Module):
    """A memory that keeps nothing."""

    def forward(self, x: Tensor, state: object) -> tuple[Tensor, Tensor]:
        return x, x


def test_mmdfn_without_its_memory_and_residual_spreads_as_mmgcn() -> None:
    model, nodes = make("mmdfn"), torch.randn(1, 12, 12)
    adjacency = angular_graph(torch.randn(1, 3, 4, 12), torch.ones(1, 3, 4, dtype=torch.bool))
    model.memory = Copy()
    expected = h = nodes
    for layer in model.layers:
        h, expected = h + layer(h, nodes, adjacency), layer(expected, nodes, adjacency)
    torch.testing.assert_close(model.spread(nodes, adjacency), h)
    torch.testing.assert_close(MMGCN.spread(model, nodes, adjacency), expected)
    assert {layer.alpha for layer in model.layers} == {0.2}


def test_mmdfn_without_speaker_weights_does_not_depend_on_the_speakers() -> None:
    batch = conversation([8])
    other = replace(batch, slot=torch.zeros_like(batch.slot))
    model = make("mmdfn", speaker_weights=[0.0, 0.0, 0.0])
    torch.testing.assert_close(logits(model, other), logits(model, batch))


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_recurrence_by_speaker_is_one_over_the_turns_of_each(bidirectional: bool) -> None:
    torch.manual_seed(0)
    batch, rnn = conversation([7, 3, 5], speakers=3), TurnRNN("gru", 24, 8, 2, bidirectional=bidirectional).eval()
    x = batch.vectors["audio"]
    found = by_speaker(rnn, x, batch.mask, batch.slot)
    expected = torch.zeros_like(found)
    for row in range(3):
        for slot in range(3):
            turns = (batch.slot[row] == slot).nonzero().flatten()
            if len(turns):
                expected[row, turns] = rnn.rnn(x[row, turns][None])[0][0]
    torch.testing.assert_close(found, expected)


# ------------------------------------------------------------------ COGMEN


@pytest.mark.parametrize(("count", "edges"), [(1, 1), (3, 9), (20, 190)])
def test_cogmen_joins_turns_within_five_of_each_other(count: int, edges: int) -> None:
    model, batch = make("cogmen"), conversation([count])
    seen: list[Tensor] = []
    model.convolution.register_forward_hook(lambda _, given, __: seen.append(given[1]))
    logits(model, batch)
    assert int(seen[0].sum()) == edges


def test_a_convolution_of_unit_weights_averages_each_type_of_source() -> None:
    layer, x = RelationalConvolution(4, 4, 2), torch.randn(1, 5, 4)
    nn.init.zeros_(layer.own.weight)
    nn.init.zeros_(layer.own.bias)
    layer.weight.data = torch.eye(4).expand(2, 4, 4)
    earlier = torch.ones(5, 5).tril(-1).bool()
    found = layer(x, torch.stack([earlier, ~earlier])[None])[0]
    for i in range(5):
        before = x[0, :i].mean(0) if i else torch.zeros(4)
        torch.testing.assert_close(found[i], before + x[0, i:].mean(0))


def test_the_graph_attention_of_one_node_is_its_own_value() -> None:
    layer, x = GraphAttention(4, 4), torch.randn(1, 1, 4)
    torch.testing.assert_close(layer(x, torch.ones(1, 1, 1, dtype=torch.bool)), layer.own(x) + layer.value(x))


def test_two_hops_of_cogmens_graph_reach_ten_turns() -> None:
    model, batch = make("cogmen"), conversation([14])
    x = torch.randn(1, 14, 16)
    far, near = x.clone(), x.clone()
    far[0, 11] += 1.0
    near[0, 10] += 1.0
    before = model.graph(x, batch)[0, 0]
    assert torch.equal(model.graph(far, batch)[0, 0], before)
    assert not torch.equal(model.graph(near, batch)[0, 0], before)


# ------------------------------------------------------------------ M2FNet


def test_audio_and_video_only_reweight_the_text_of_m2fnet() -> None:
    model = make("m2fnet")
    one, allowed = torch.randn(1, 1, 16), torch.ones(1, 1, 1, dtype=torch.bool)
    first, second = (model.fusions[0](one, [torch.randn(1, 1, 16) for _ in range(2)], allowed) for _ in range(2))
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)
    batch = conversation([1])
    assert (logits(model, changed(batch, 0, 0, ("audio",))) - logits(model, batch)).abs().max() > 1e-4


def test_equal_keys_of_m2fnet_average_the_turns() -> None:
    model, text = make("m2fnet"), torch.randn(1, 5, 16)
    attention, key = model.fusions[0].attentions[0], torch.randn(1, 1, 16).expand(1, 5, 16)
    found = attention(text, key, text, torch.ones(1, 5, 5, dtype=torch.bool))
    expected = attention.out_proj(attention.v_proj(text).mean(1, keepdim=True)).expand(1, 5, 16)
    torch.testing.assert_close(found, expected)


def test_m2fnet_has_no_order_unless_places_are_added() -> None:
    batch, order = conversation([6]), torch.tensor([2, 0, 5, 1, 4, 3])
    moved = replace(batch, vectors={name: x[:, order] for name, x in batch.vectors.items()})
    for places in (False, True):
        model = make("m2fnet", places=places)
        same = torch.allclose(logits(model, moved), logits(model, batch)[:, order], atol=1e-5)
        assert same != places


# ------------------------------------------------------------------ HAAN-ERC


def test_the_speaker_stage_of_haan_sees_its_own_speaker_and_the_other_stage_the_others() -> None:
    model, batch = make("haan", selector="off"), conversation([6])
    batch = replace(batch, slot=torch.tensor([[0, 1, 0, 1, 0, 1]]))
    past, same = past_turns(batch.mask), same_speaker(batch.slot)
    x = torch.randn(1, 6, 16)
    moved = x.clone()
    moved[0, 1] += 1.0
    own, others = (real_pairs(past & each, batch.mask) for each in (same, ~same))
    for encoder, allowed, reached in ((model.own["text"], own, [1, 3, 5]), (model.others["text"], others, [1, 2, 4])):
        one_layer = encoder.layers[0]
        difference = (one_layer(moved, allowed) - one_layer(x, allowed))[0].abs().amax(-1) > 1e-6
        assert difference.nonzero().flatten().tolist() == reached


def test_the_other_stage_of_haan_in_a_monologue_returns_the_value_of_the_own_turn() -> None:
    model, x = make("haan", selector="off"), torch.randn(1, 4, 16)
    attention = model.others["audio"].layers[0].attention
    own = torch.eye(4, dtype=torch.bool)[None]
    torch.testing.assert_close(attention(x, x, x, own), attention.out_proj(attention.v_proj(x)))


def test_the_read_out_of_haan_weighs_equal_modalities_alike() -> None:
    model = make("haan")
    model.read_out.queries.data = torch.ones(3, 16)
    f = torch.randn(1, 1, 4, 16).expand(1, 3, 4, 16)
    torch.testing.assert_close(model.read_out.weights(f), torch.full((1, 3, 4), 1 / 3))


def test_the_selector_of_haan_is_the_network_on_joined_pairs_and_keeps_the_own_turn() -> None:
    torch.manual_seed(0)
    encoder, x = SpeakerEncoder(16, 0.0, "learned").eval(), torch.randn(1, 6, 16)
    selector = encoder.selector
    assert selector is not None
    found = selector(x)[0, 0]
    for i in range(6):
        for j in range(6):
            pair = selector.hidden(torch.cat([selector.query(x)[0, i], selector.key(x)[0, j]]))
            keep = selector.decision(pair.relu()).argmax() == 1 or i == j
            assert bool(found[i, j] > -1) == keep
    nn.init.constant_(selector.decision.bias[0], 100.0)
    assert (selector(x)[0, 0] > -1).equal(torch.eye(6, dtype=torch.bool))


# ------------------------------------------------------------------ UniMSE


def test_unimse_has_the_described_adapters_and_step_encoders() -> None:
    with torch.device("meta"):
        model = SYSTEMS["unimse"](OURS, 6)
    parts = (model.adapters[0], model.encoders["audio"], model.encoders["video"])
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [747_136, 103_712, 169_248]


def test_an_adapter_without_its_bottleneck_is_a_linear_map() -> None:
    adapter = Adapter(8, 4)
    nn.init.zeros_(adapter.up.weight)
    nn.init.zeros_(adapter.up.bias)
    x, extra = torch.randn(2, 3, 8), torch.randn(2, 4)
    joined = torch.cat([x, extra[:, None].expand(-1, 3, -1)], dim=-1)
    torch.testing.assert_close(adapter(x, extra), adapter.out(joined))


def test_unimse_sees_as_many_neighbours_as_it_is_told() -> None:
    batch = conversation([9])
    for count in (0, 2):
        model = make("unimse", context_turns=count)
        moved = (logits(model, changed(batch, 0, 4)) - logits(model, batch))[0].abs().amax(-1) > 1e-7
        assert moved.nonzero().flatten().tolist() == list(range(4 - count, 5 + count))


def test_unimse_without_polarity_and_contrast_has_the_cross_entropy_alone() -> None:
    model, batch = make("unimse", polarity=None, contrast=False), conversation([6])
    expected = F.cross_entropy(model(batch)[0], batch.label[0])
    torch.testing.assert_close(model.loss(batch), expected)


# ------------------------------------------------------------------ losses


def test_info_nce_finds_partners_among_all_rows() -> None:
    same = torch.ones(8, 4)
    assert float(info_nce(same, same)) == pytest.approx(math.log(8), abs=1e-6)
    assert float(info_nce(torch.eye(8), torch.eye(8))) == pytest.approx(math.log(1 + 7 * math.exp(-10)), abs=1e-6)


def test_the_vectors_are_standardised_by_the_training_part_and_absent_ones_are_zero() -> None:
    model: Callable[..., DialogueModel] = SYSTEMS["turn_mlp"]
    x = torch.tensor([[1.0, 5.0], [3.0, 5.0], [99.0, 99.0]])
    has = torch.tensor([True, True, False])
    dialogue = DialogueVectors(
        ["a", "b", "c"], {"text": x}, {"text": has}, torch.zeros(3).long(), torch.tensor([0, 0, 1])
    )
    found = model({"text": 2}, 3)
    found.fit([dialogue], balanced=True)
    assert found.get_buffer("class_weights").tolist() == [1.5, 3.0, 0.0]
    torch.testing.assert_close(
        found.inputs(collate_dialogues([dialogue]))["text"][0], torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    )
