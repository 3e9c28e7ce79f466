"""A word tokenizer that is built from the instructions themselves and needs no download."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from pirl_core.errors import UserError

PAD, UNKNOWN, START = "<pad>", "<unk>", "<start>"


def build_tokenizer(instructions: Iterable[str]) -> Tokenizer:
    """Vocabulary: every word of the instructions, in alphabetical order."""
    words = sorted({word for text in instructions for word in text.lower().replace(",", " ").split()})
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


def tokenize(tokenizer: Tokenizer, instructions: list[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and validity, both (B, length); longer instructions are cut, a start token comes first."""
    ids = np.zeros((len(instructions), length), np.int64)
    valid = np.zeros((len(instructions), length), bool)
    for row, text in enumerate(instructions):
        tokens = [tokenizer.token_to_id(START), *tokenizer.encode(text).ids][:length]
        ids[row, : len(tokens)] = tokens
        valid[row, : len(tokens)] = True
    return ids, valid
