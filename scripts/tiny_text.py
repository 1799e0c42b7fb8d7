"""Train the `tiny` preset's byte-level BPE on sentences of ours; writes vocab.json and merges.txt in tiny_assets/."""

import json
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from wavfusion.lookalike import sentences as pools

MERGES = 600
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]

ENGLISH = """
I can't believe it! Are you sure that this is what you want? Yes, I think so. No, not at all, thank you very much.
Where were you yesterday evening? We waited for more than an hour and then we went home without you.
She said that everything would be all right, but nobody knows when the train is going to leave.
What are you talking about? I never told him anything about the money, and you know that I would not do that.
Kids are talking by the door. Dogs are sitting by the door. It is raining again, so take your coat with you.
Please call me when you have found the keys; they must be somewhere in the house, maybe under the big chair.
My brother works in a small town near the sea. He likes his job because people there have time for each other.
That's great! How did you do it? You have to show me. Let us start with the first one and see what happens.
I'm so sorry, I didn't mean to hurt you. Could we talk about this later? There is something I have to tell you.
Don't worry, it's only a game. Next time we will win. Who wants another cup of coffee before the others come back?
They've been looking for the right answer for years, haven't they? It isn't as simple as it seems to be.
Give me one good reason why I should listen to you. You always say the same thing and then you change your mind.
Oh my God, it's a surprise! I wasn't ready for that. Do you remember the summer when we were children?
The doctor told her to stay in bed for two or three days, which she found very boring. Hello? Is anybody there?
If you were more careful, nothing like this could ever happen. Everybody makes mistakes, though some make them twice.
The weather changed quickly during the afternoon; dark clouds came over the mountains and strong winds followed.
A friend from school visited us last month with her husband, their three daughters and a rather lazy old dog.
Would somebody explain why every single meeting must begin before breakfast? That seems completely unnecessary.
Turn left after the bridge, go straight until you reach the hospital, then ask a policeman or a taxi driver.
My grandmother used to bake bread on Saturdays, and the smell would wake the whole family before sunrise.
Honestly, between the two of us, that movie was much longer than it needed to be, although the music was beautiful.
He finally finished writing the letter, folded the paper, and walked slowly toward the post office across the street.
Scientists measured the temperature of the water at different depths and compared their results with older studies.
Can we afford a holiday this year? Perhaps, if both of us keep working and nothing important breaks in the meantime.
I feel angry, sad, happy, excited, frustrated, surprised, afraid, disgusted or calm, depending on what happened today.
Come on, hurry up! Wait, wait, stop right there! Hmm, maybe. Uh, well, you see, I guess I kind of forgot about it.
Good morning. How much is it? It was twelve dollars last week. We'll see. What a day! Nothing works as it should.
"""


def corpus(sentences: int = 4000) -> list[str]:
    """Drawn sentences of the look-alike's pools beside the generic ones, these often enough to earn merges."""
    rng = np.random.default_rng(0)
    drawn = [pools.sentence(rng, str(rng.choice(list(pools.CUES))), bool(rng.random() < 0.5)) for _ in range(sentences)]
    return drawn + [line for line in ENGLISH.strip().splitlines() for _ in range(sentences // 60)]


def main(out: Path) -> None:
    """Train and write the two files of a byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIAL) + len(alphabet) + MERGES,
        special_tokens=SPECIAL,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    out.mkdir(parents=True, exist_ok=True)
    vocab = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    (out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    lines = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (out / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "wavfusion" / "tiny_assets")
