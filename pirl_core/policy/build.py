"""A fresh policy for a dataset: sizes from params, vocabulary and statistics from the data."""

import torch

from pirl_core.data.lerobot import Frames, action_chunks
from pirl_core.errors import UserError
from pirl_core.params import Env, Policy
from pirl_core.policy.context import DataSizes
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.policy.normalize import Mode, Normalization, fit, relative
from pirl_core.policy.pi0 import Pi0, small_shape
from pirl_core.policy.tokenizer import build_tokenizer


def build_policy(env: Env, policy: Policy, frames: Frames, instructions: list[str], seed: int) -> FlowPolicy:
    """An untrained tiny π0. ``instructions``: every sentence that its vocabulary should know.

    Raises UserError when the frames are not of ``env.image_size``.
    """
    if env.cameras and frames.images.shape[2:4] != (env.image_size, env.image_size):
        found = "x".join(map(str, frames.images.shape[2:4]))
        raise UserError(f"env.image_size = {env.image_size}: the dataset's images are {found}; rerun stage curate")
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(instructions)
    data = DataSizes(
        image_size=env.image_size,
        cameras=len(env.cameras),
        vocabulary=tokenizer.get_vocab_size(),
        text_length=1 + max(len(tokenizer.encode(text).ids) for text in instructions),
        state_dim=frames.state.shape[1],
        action_dim=frames.actions.shape[1],
        horizon=policy.horizon,
    )
    shape = small_shape(
        data,
        vlm_width=policy.vlm_width,
        vlm_layers=policy.vlm_layers,
        vision_width=policy.vision_width,
        vision_layers=policy.vision_layers,
        expert_width=policy.expert_width,
        heads=policy.heads,
        head_dim=policy.head_dim,
    )
    normalization = data_normalization(frames, "mean_std", 0, policy.horizon)
    return FlowPolicy(Pi0(shape), tokenizer, "words", normalization, policy.replan, policy.denoise_steps)


def data_normalization(frames: Frames, mode: Mode, delta: int, horizon: int) -> Normalization:
    """Fitted to all frames; to all chunks where ``delta`` action numbers are relative to the state at their start."""
    actions = frames.actions
    if delta:
        index, real = action_chunks(frames, horizon)
        actions = relative(actions[index], frames.state, delta)[real]
    return Normalization(fit(frames.state, mode), fit(actions, mode), delta)
