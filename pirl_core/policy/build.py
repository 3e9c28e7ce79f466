"""A fresh policy for a dataset: sizes from params, vocabulary and statistics from the data."""

import torch

from pirl_core.data.lerobot import Frames, action_chunks
from pirl_core.errors import UserError
from pirl_core.params import Env, Policy
from pirl_core.policy.backbone import new_backbone, new_shape
from pirl_core.policy.context import DataSizes
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.policy.normalize import Normalization, fit, relative
from pirl_core.policy.sizes import Mode
from pirl_core.policy.tokenizer import build_tokenizer


def build_policy(env: Env, policy: Policy, frames: Frames, instructions: list[str], seed: int) -> FlowPolicy:
    """An untrained policy. ``instructions``: every sentence that its vocabulary should know.

    Raises UserError when the frames are not of ``env.image_size``, or more actions are to be relative than there are.
    """
    if env.cameras and frames.images.shape[2:4] != (env.image_size, env.image_size):
        found = "x".join(map(str, frames.images.shape[2:4]))
        raise UserError(f"env.image_size = {env.image_size}: the dataset's images are {found}; rerun stage curate")
    torch.manual_seed(seed)
    state_numbers, action_numbers = frames.state.shape[1], frames.actions.shape[1]
    if policy.delta_actions > min(state_numbers, action_numbers):
        raise UserError(
            f"policy.delta_actions = {policy.delta_actions}: the data have {state_numbers} state and {action_numbers} "
            "action numbers; give at most the smaller"
        )
    tokenizer = build_tokenizer(instructions, numbers=policy.state_in_prompt)
    words = 1 + max(len(tokenizer.encode(text).ids) for text in instructions)
    data = DataSizes(
        image_size=env.image_size,
        cameras=len(env.cameras),
        vocabulary=tokenizer.get_vocab_size(),
        text_length=words + (state_numbers if policy.state_in_prompt else 0),
        state_dim=state_numbers,
        action_dim=action_numbers,
        horizon=policy.horizon,
    )
    return FlowPolicy(
        new_backbone(new_shape(policy.backbone, policy.size, data)),
        tokenizer,
        "words_state" if policy.state_in_prompt else "words",
        data_normalization(frames, policy.normalization, policy.delta_actions, policy.horizon),
        policy.replan,
        policy.denoise_steps,
    )


def data_normalization(frames: Frames, mode: Mode, delta: int, horizon: int) -> Normalization:
    """Fitted to all frames; to all chunks where ``delta`` action numbers are relative to the state at their start."""
    actions = frames.actions
    if delta:
        index, real = action_chunks(frames, horizon)
        actions = relative(actions[index], frames.state, delta)[real]
    return Normalization(fit(frames.state, mode), fit(actions, mode), delta)
