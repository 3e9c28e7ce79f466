"""A fresh policy for a dataset: sizes from params, vocabulary and statistics from the data."""

import numpy as np
import torch

from pirl_core.data.lerobot import Frames
from pirl_core.errors import UserError
from pirl_core.params import Env, Policy
from pirl_core.policy.flow_policy import FlowPolicy, Statistics
from pirl_core.policy.pi0 import Pi0, Pi0Shape
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
    shape = Pi0Shape(
        image_size=env.image_size,
        cameras=len(env.cameras),
        vocabulary=tokenizer.get_vocab_size(),
        text_length=1 + max(len(tokenizer.encode(text).ids) for text in instructions),
        state_dim=frames.state.shape[1],
        action_dim=frames.actions.shape[1],
        horizon=policy.horizon,
        vlm_width=policy.vlm_width,
        vlm_layers=policy.vlm_layers,
        vision_width=policy.vision_width,
        vision_layers=policy.vision_layers,
        expert_width=policy.expert_width,
        heads=policy.heads,
        head_dim=policy.head_dim,
        stem="conv",
    )
    return FlowPolicy(Pi0(shape), tokenizer, data_statistics(frames), policy.replan, policy.denoise_steps)


def data_statistics(frames: Frames) -> Statistics:
    """Mean and standard deviation over all frames."""
    moments = [
        moment(values, axis=0, dtype=np.float64).tolist()
        for values in (frames.state, frames.actions)
        for moment in (np.mean, np.std)
    ]
    return Statistics(*moments)
