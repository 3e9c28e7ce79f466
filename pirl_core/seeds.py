"""The random streams of the project: what a stream is for, and what identifies the draw, make its key.

Purpose, numbers and words are written as a text that no other key has, and hashed to 128 bits. So no two purposes, and
no two keys of one purpose, share a stream, whatever the numbers in ``params.yaml``. A task enters by its name: adding
or reordering tasks moves no other task's streams.

An episode has a seed of its own, a number like any other in the keys of what happens in it. Its top two bits say which
use the episode is for, the other 50 are hashed: demonstrations, training, validation and evaluation never share one.
"""

import hashlib
import json
from typing import Literal, get_args

import numpy as np

Purpose = Literal[
    "episode",  # the seed of an episode (use, seed, task, number, attempt)
    "start",  # where things are when an episode starts (episode seed)
    "looks",  # lights, colours and cameras of an episode (episode seed)
    "simulator",  # number for a simulator that draws starts with a generator of its own (episode seed)
    "share",  # which uses of episodes may start so (what the start is)
    "demonstration",  # noise on the expert's actions (episode seed)
    "network",  # initial weights of a policy from scratch (training seed)
    "batch",  # rows, noise, times and augmentation of an SFT step, in this order (training seed, step)
    "mixture",  # which of an SFT step's samples are of the real domain, and their rows (training seed, step)
    "shortcut",  # lengths of steps that a shortcut model is asked in an SFT step (training seed, step)
    "sft_dropout",  # masks of an SFT step (training seed, step, rank)
    "heads",  # initial weights of critic, noise net and adapters (training seed)
    "chain",  # noise of a rollout's denoising chain, start first (training seed, iteration, episode, decision)
    "step",  # which denoising step of a decision is stochastic (as chain)
    "minibatch",  # order of an iteration's decisions in the update (training seed, iteration)
    "anchor",  # as batch, of the demonstrations in a minibatch of RL (training seed, iteration, minibatch)
    "rl_dropout",  # masks of an iteration, rollout then update (training seed, iteration, rank)
    "chunk",  # start noise of a deterministic chunk (episode seed, decision)
    "exploring_chain",  # noise of a chain in an evaluation that explores, start first (episode seed, decision)
    "exploring_step",  # which of its denoising steps is stochastic (episode seed, decision)
    "expert",  # training of the policy that shows a task (seed of the demonstrations, task)
    "sac_heads",  # initial weights of SAC's critics and noise net (training seed)
    "sac_play",  # as chain, of SAC
    "sac_random",  # as chain, of SAC's first decisions
    "sac_batch",  # rows of an update of SAC (training seed, update)
    "sac_chain",  # noise of its chains, start first (training seed, update)
    "bootstrap",  # seeds and states of an interval (nothing)
]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)

Use = Literal["demonstration", "training", "validation", "evaluation"]
USES: tuple[Use, ...] = get_args(Use)
Domain = Literal["sim", "real"]
"""Of demonstrations; those of the second domain start elsewhere."""
_EPISODE_BITS, _LIBRARY_BITS = 50, 30
"""Hashed bits of an episode's seed (with the use's it is exact as JSON's number), and of a simulator's own."""


def generator(purpose: Purpose, *key: int | str) -> np.random.Generator:
    """The stream of a purpose and a key."""
    return np.random.default_rng(np.frombuffer(_digest(purpose, key), "<u4"))


def integer(purpose: Purpose, *key: int | str) -> int:
    """32 bits, for libraries that want a number and make their own generator of it."""
    return int.from_bytes(_digest(purpose, key)[:4], "little")


def simulator_seed(episode_seed: int) -> int:
    """32 bits for a simulator's own generator, of which the top two say the episode's use, as in its seed."""
    hashed = integer("simulator", episode_seed) & (1 << _LIBRARY_BITS) - 1
    return USES.index(use_of(episode_seed)) << _LIBRARY_BITS | hashed


def demo_seed(seed: int, task: str, number: int, attempt: int, domain: Domain = "sim") -> int:
    """Seed of one attempt of the scripted expert at demonstration ``number`` of the task in the domain."""
    return _episode_seed("demonstration", seed, task, number, attempt, *([] if domain == "sim" else [domain]))


def train_seed(seed: int, task: str, number: int) -> int:
    """Seed of the task's rollout ``number`` in RL; the episodes of one GRPO group share one number."""
    return _episode_seed("training", seed, task, number)


def validation_seed(seed: int, task: str, number: int) -> int:
    """Seed of one validation episode: the same ones at every validation, so that they choose the best policy fairly."""
    return _episode_seed("validation", seed, task, number)


def evaluation_seed(seed: int, task: str, number: int) -> int:
    """Seed of one episode of the frozen protocol: equal for all policies, so that they meet the same states."""
    return _episode_seed("evaluation", seed, task, number)


def use_of(episode_seed: int) -> Use:
    """What the episode is for, from the top two bits of its seed."""
    return USES[episode_seed >> _EPISODE_BITS]


def _episode_seed(use: Use, *key: int | str) -> int:
    hashed = int.from_bytes(_digest("episode", (use, *key)), "little") & (1 << _EPISODE_BITS) - 1
    return USES.index(use) << _EPISODE_BITS | hashed


def _digest(purpose: Purpose, key: tuple[int | str, ...]) -> bytes:
    # JSON tells 1 from "1", and [1] from [1, 0]; it refuses numbers that are not Python's.
    return hashlib.blake2b(json.dumps((purpose, *key)).encode(), digest_size=16).digest()
