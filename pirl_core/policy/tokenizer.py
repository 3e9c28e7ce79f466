"""Instructions as tokens: the prompt of each model family, and a word tokenizer that needs no download.

Axes: B batch, L tokens of the longest prompt of the batch, S state numbers.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from pirl_core.errors import UserError

PAD, UNKNOWN, START = "<pad>", "<unk>", "<start>"
Prompt = Literal["words", "words_state", "pi0", "pi05_state", "smolvla"]
"""How an instruction is put to the model. words: the word tokenizer's. The others are the published checkpoints', for
their own tokenizers; _state: the state's numbers, each one of 256 bins, follow the instruction."""
BINS = 256
_FIRST = {"words": START, "words_state": START, "pi0": "<bos>", "pi05_state": "<bos>"}


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
    """Raises UserError when the file is missing or no tokenizer."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{path}: not a tokenizer ({error}); restore the policy folder or rerun its stage") from None


def check_words(tokenizer: Tokenizer, prompt: Prompt, vocabulary: int, path: Path) -> None:
    """Raises UserError where the words of the tokenizer at ``path`` are not those of a model of this vocabulary."""
    words = tokenizer.get_vocab()
    own = prompt.startswith("words")
    needed = [PAD, UNKNOWN, START] if own else [_FIRST[prompt]] if prompt in _FIRST else []
    missing = [word for word in needed if word not in words]
    if missing:
        raise UserError(f"{path}: the word {missing[0]} is missing; this is the tokenizer of another model")
    if own and sorted(words.values()) != list(range(vocabulary)):
        raise UserError(f"{path}: its words are not numbered 0 to {vocabulary - 1} as config.json says; restore it")
    if max(words.values(), default=0) >= vocabulary:
        raise UserError(f"{path}: has words beyond the model's {vocabulary}; this is the tokenizer of another model")


def prompt_text(prompt: Prompt, instruction: str, state: Sequence[float]) -> str:
    """What is tokenized. state: (S,) normalised; read by the _state prompts alone."""
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
    return f"{instruction.strip()}\n"


def state_bins(state: Sequence[float]) -> list[int]:
    """Number of the bin, of 256 equal ones over [−1, 1], that each normalised number falls into; below them −1, above
    them 255 (openpi's π0.5)."""
    edges = np.linspace(-1, 1, BINS + 1)[:-1]
    bins: list[int] = (np.digitize(np.asarray(state), edges) - 1).tolist()
    return bins


def tokenize(
    tokenizer: Tokenizer, prompt: Prompt, instructions: list[str], state: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and validity, both (B, L); a prompt is cut after ``length`` tokens. state: (B, S) normalised."""
    first = _FIRST.get(prompt)
    start = [] if first is None else [tokenizer.token_to_id(first)]
    texts = [prompt_text(prompt, text, row) for text, row in zip(instructions, state, strict=True)]
    rows = [[*start, *tokenizer.encode(text, add_special_tokens=False).ids][:length] for text in texts]
    ids = np.zeros((len(rows), max(map(len, rows), default=0)), np.int64)
    valid = np.zeros(ids.shape, bool)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens
        valid[row, : len(tokens)] = True
    return ids, valid
