"""Environment seeds for each purpose, in ranges that cannot meet.

A seed is 32 bits: the top two name the purpose, the other 30 are hashed from what identifies the episode. So
demonstrations, training, validation and evaluation never share a seed, whatever the numbers in ``params.yaml``.
A task enters by its name: adding or reordering tasks moves no other task's seeds.
"""

import zlib

import numpy as np

DEMONSTRATION, TRAINING, VALIDATION, EVALUATION = range(4)
_HASH_BITS = 30


def demo_seed(seed: int, task: str, number: int, attempt: int) -> int:
    """Seed of one attempt of the scripted expert at demonstration ``number`` of the task."""
    return _environment_seed(DEMONSTRATION, seed, _number(task), number, attempt)


def train_seed(seed: int, iteration: int, index: int) -> int:
    """Seed of rollout ``index`` of an RL iteration; the episodes of one GRPO group share one index."""
    return _environment_seed(TRAINING, seed, iteration, index)


def validation_seed(seed: int, task: str, index: int) -> int:
    """Seed of one validation episode: the same ones at every validation, so that they choose the best policy fairly."""
    return _environment_seed(VALIDATION, seed, _number(task), index)


def evaluation_seed(seed: int, task: str, index: int) -> int:
    """Seed of one episode of the frozen protocol: equal for all policies, so that they meet the same states."""
    return _environment_seed(EVALUATION, seed, _number(task), index)


def purpose_of(environment_seed: int) -> int:
    """The purpose in the top two bits."""
    return environment_seed >> _HASH_BITS


def _environment_seed(purpose: int, *entropy: int) -> int:
    word = int(np.random.SeedSequence((purpose, *entropy)).generate_state(1)[0])
    return purpose << _HASH_BITS | word & (1 << _HASH_BITS) - 1


def _number(task: str) -> int:
    return zlib.crc32(task.encode())
