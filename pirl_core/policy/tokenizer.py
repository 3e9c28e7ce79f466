"""Instructions as tokens: the prompt of each model family, and a word tokenizer that needs no download.

Axes: B batch, L tokens of the longest prompt of the batch, S state numbers.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from pirl_core.errors import UserError, first_line
from pirl_core.readers.text import read_text

PAD, UNKNOWN, START = "<pad>", "<unk>", "<start>"
IMAGE = "<IMG_CONTEXT>"
RERUN = "restore the policy folder or rerun its stage"
Prompt = Literal["words", "words_state", "pi0", "pi05_state", "smolvla", "groot"]
"""How an instruction is put to the model. words: the word tokenizer's. The others are the published checkpoints', for
their own tokenizers; _state: the state's numbers, each one of 256 bins, follow the instruction."""
BINS = 256
_FIRST = {"words": START, "words_state": START, "pi0": "<bos>", "pi05_state": "<bos>"}
_NEEDED = {
    "words": (PAD, UNKNOWN, START),
    "words_state": (PAD, UNKNOWN, START),
    "pi0": ("<bos>",),
    "pi05_state": ("<bos>",),
    "groot": ("<|im_start|>", "<|im_end|>", "<img>", "</img>", IMAGE),
}


def build_tokenizer(instructions: Iterable[str], numbers: bool = False) -> Tokenizer:
    """Vocabulary: every word of the instructions, in alphabetical order, and the bins' numbers where asked for."""
    words = sorted({word for text in instructions for word in text.lower().replace(",", " ").split()})
    if numbers:
        words += [text for text in map(str, range(-1, BINS)) if text not in words]
    vocabulary = {word: index for index, word in enumerate([PAD, UNKNOWN, START, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.CharDelimiterSplit(","), pre_tokenizers.WhitespaceSplit()]
    )
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """The file at ``path``, or the vocab.json and merges.txt beside it where it is not there: GR00T's tokenizer, a
    Qwen3's with Eagle's words added, is published so. Raises UserError when both are missing or no tokenizer."""
    try:
        if not path.exists() and path.with_name("vocab.json").exists():
            from transformers import Qwen2Tokenizer

            published: Tokenizer = Qwen2Tokenizer.from_pretrained(str(path.parent)).backend_tokenizer
            return published
        return Tokenizer.from_str(read_text(path, RERUN))
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{path}: not a tokenizer ({first_line(error)}); {RERUN}") from None


def check_words(tokenizer: Tokenizer, prompt: Prompt, shape: Any, path: Path) -> None:
    """Raises UserError where the words of the tokenizer at ``path`` are not those of a model of this shape."""
    words, vocabulary = tokenizer.get_vocab(), shape.vocabulary
    missing = [word for word in _NEEDED.get(prompt, ()) if word not in words]
    if missing:
        raise UserError(f"{path}: the word {missing[0]} is missing; this is the tokenizer of another model")
    # Under another number the images would be put elsewhere than the prompt says.
    if prompt == "groot" and words[IMAGE] != getattr(shape, "image_token", None):
        raise UserError(f"{path}: {IMAGE} is number {words[IMAGE]}, not the model's; this is the tokenizer of another")
    if prompt.startswith("words") and sorted(words.values()) != list(range(vocabulary)):
        raise UserError(f"{path}: its words are not numbered 0 to {vocabulary - 1} as config.json says; restore it")
    if max(words.values(), default=0) >= vocabulary:
        raise UserError(f"{path}: has words beyond the model's {vocabulary}; this is the tokenizer of another model")


def image_words(cameras: int, patches: int) -> str:
    """How Eagle 2.5's processor writes images of one tile: each its number, then a word for each of its ``patches``."""
    return "".join(f"<image {number + 1}><img>{IMAGE * patches}</img>" for number in range(cameras))


def prompt_text(prompt: Prompt, instruction: str, state: Sequence[float], images: str = "") -> str:
    """What is tokenized. state: (S,) normalised; read by the _state prompts alone. images: from ``image_words``; read
    by groot alone.

    groot: Eagle 2.5's chat template, by which GR00T N1.5 was trained (Isaac-GR00T's GR00TTransform): system message,
    images in the cameras' order and instruction of the user, then the turn of the assistant. The instruction goes in
    as it is, since ``formalize_language`` is off there.
    """
    bins = " ".join(map(str, state_bins(state))) if prompt.endswith("_state") else ""
    clean = instruction.strip().replace("_", " ").replace("\n", " ")
    if prompt == "words":
        return instruction
    if prompt == "words_state":
        return f"{instruction} {bins}"
    if prompt == "pi05_state":
        return f"Task: {clean}, State: {bins};\nAction: "
    if prompt == "pi0":
        return f"{clean}\n"
    if prompt == "groot":
        return (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            f"<|im_start|>user\n{images}{instruction}<|im_end|>\n<|im_start|>assistant\n"
        )
    return f"{instruction.strip()}\n"


def state_bins(state: Sequence[float]) -> list[int]:
    """Number of the bin, of 256 equal ones over [−1, 1], that each normalised number falls into; below them −1, above
    them 255 (openpi's π0.5)."""
    edges = np.linspace(-1, 1, BINS + 1)[:-1]
    bins: list[int] = (np.digitize(np.asarray(state), edges) - 1).tolist()
    return bins


def tokenize(
    tokenizer: Tokenizer, prompt: Prompt, instructions: list[str], state: np.ndarray, length: int, images: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and validity, both (B, L); a prompt is cut after ``length`` tokens. state: (B, S) normalised. images:
    see ``prompt_text``."""
    first = _FIRST.get(prompt)
    start = [] if first is None else [tokenizer.token_to_id(first)]
    texts = [prompt_text(prompt, text, row, images) for text, row in zip(instructions, state, strict=True)]
    rows = [[*start, *tokenizer.encode(text, add_special_tokens=False).ids][:length] for text in texts]
    ids = np.zeros((len(rows), max(map(len, rows), default=0)), np.int64)
    valid = np.zeros(ids.shape, bool)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens
        valid[row, : len(tokens)] = True
    return ids, valid
