"""A policy for a dataset, from scratch or from published weights, with the data's statistics or theirs."""

from typing import Any, NamedTuple

import torch
from accelerate import init_empty_weights

from pirl_core import seeds
from pirl_core.checkpoints.pretrained import load_pretrained, origin_of, pretrained_normalization, relative_note
from pirl_core.checkpoints.source import find_checkpoint
from pirl_core.checkpoints.statistics import find_statistics
from pirl_core.data.lerobot import Frames, action_chunks
from pirl_core.errors import UserError
from pirl_core.facts import facts_in
from pirl_core.params.sections import Env, Policy
from pirl_core.params.sizes import Mode
from pirl_core.policy.backbone import new_backbone, new_shape, published_prompt, published_sizes
from pirl_core.policy.context import DataSizes
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.policy.interface import interface_of
from pirl_core.policy.normalize import FIXED_SCALE, Normalization, fit, relative, squashed
from pirl_core.policy.tokenizer import Prompt, build_tokenizer, check_words, load_tokenizer


class Built(NamedTuple):
    """origin: where pretrained weights came from, to be recorded; None for a policy from scratch."""

    policy: FlowPolicy
    origin: dict[str, Any] | None


def build_policy(
    env: Env, policy: Policy, frames: Frames, instructions: list[str], seed: int, trained: bool = True
) -> Built:
    """A policy before its training. ``instructions``: every sentence that a vocabulary of its own should know.
    ``trained``: whether SFT follows; else pretrained weights act as they are.

    Raises UserError when the frames are not of ``env.image_size``, when they have more numbers than the network, or
    more are to be relative than there are; and for what goes wrong with pretrained weights and tokenizers.
    """
    if env.cameras and frames.images.shape[2:4] != (env.image_size, env.image_size):
        size = "x".join(map(str, frames.images.shape[2:4]))
        raise UserError(f"env.image_size = {env.image_size}: the dataset's images are {size}; rerun stage curate")
    torch.manual_seed(seeds.integer("network", seed))
    state_numbers, action_numbers = frames.state.shape[1], frames.actions.shape[1]
    if policy.delta_actions > min(state_numbers, action_numbers):
        raise UserError(
            f"policy.delta_actions = {policy.delta_actions}: the data have {state_numbers} state and {action_numbers} "
            "action numbers; give at most the smaller"
        )
    found = None if policy.pretrained is None else find_checkpoint(policy.pretrained, policy.revision)
    if found is not None and policy.normalization_from == "pretrained":
        stats = find_statistics(found.folder)
        normalization = pretrained_normalization(
            stats, policy.normalization, policy.delta_actions, state_numbers, action_numbers
        )
    else:
        normalization = data_normalization(frames, policy.normalization, policy.delta_actions, policy.horizon)
    if policy.squash:
        fitted = policy.normalization_from == "data"
        normalization = squashed(normalization, facts_in(env).action_range if fitted else None)
    if policy.size == "full":
        data = published_sizes(policy.backbone, len(env.cameras), policy.horizon)
        if state_numbers > data.state_dim or action_numbers > data.action_dim:
            raise UserError(
                f"policy.size = full: {policy.backbone} takes {data.state_dim} state and {data.action_dim} action "
                f"numbers, the data have {state_numbers} and {action_numbers}; set env.object_state: false"
            )
        prompt: Prompt = "pi05_state" if policy.state_in_prompt else published_prompt(policy.backbone)
        words = find_checkpoint(policy.tokenizer).folder / "tokenizer.json"
        tokenizer = load_tokenizer(words)
    else:
        tokenizer = build_tokenizer(instructions, numbers=policy.state_in_prompt)
        prompt = "words_state" if policy.state_in_prompt else "words"
        longest = 1 + max(len(tokenizer.encode(text).ids) for text in instructions)
        data = DataSizes(
            image_size=env.image_size,
            cameras=len(env.cameras),
            vocabulary=tokenizer.get_vocab_size(),
            text_length=longest + (state_numbers if policy.state_in_prompt else 0),
            state_dim=state_numbers,
            action_dim=action_numbers,
            horizon=policy.horizon,
        )
    shape = new_shape(policy.backbone, policy.size, data)
    if policy.size == "full":
        check_words(tokenizer, prompt, shape, words)
    if found is None:
        backbone, origin = new_backbone(shape), None
    else:
        with init_empty_weights():
            backbone = new_backbone(shape)
        retrained = trained and policy.normalization_from == "data"
        notes = [relative_note(found, policy.delta_actions, action_numbers, retrained)]
        origin = origin_of(found, policy.backbone, notes + load_pretrained(backbone, found))
    made = FlowPolicy(backbone, tokenizer, prompt, normalization, policy.replan, policy.denoise_steps)
    made.interface = interface_of(env, state_numbers, action_numbers, instructions)
    return Built(made, origin)


def data_normalization(frames: Frames, mode: Mode, delta: int, horizon: int) -> Normalization:
    """Fitted to all frames; to all chunks where ``delta`` action numbers are relative to the state at their start."""
    actions = frames.actions
    if delta:
        index, real = action_chunks(frames, horizon)
        actions = relative(actions[index], frames.state, delta)[real]
    return Normalization(fit(frames.state, mode), fit(actions, mode, FIXED_SCALE), delta)
