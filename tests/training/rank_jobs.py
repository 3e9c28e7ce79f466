"""Small trainings for one process and for several: ``python -m tests.training.rank_jobs FOLDER KIND...``.

Rank 0 leaves the trained parameters of each and the starting ones in FOLDER/KIND. With STOP in the environment they
end before that step is logged, as if killed.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pirl_core.params.sections import Rl, Sft
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.rl.anchor import Anchor
from pirl_core.rl.train import chooses, train_rl
from pirl_core.sft.build import build_policy
from pirl_core.sft.train import train_sft
from pirl_core.stages.launch import choose_sharding
from pirl_core.training.ranks import join, wait_for_all
from pirl_core.training.session import Session
from tests.rl.test_rl import GRPO, rl_params
from tests.sft.test_sft import BASE, ENV, POLICY, learnable
from tests.training.test_resume import Bomb, Stop
from tests.worlds import INSTRUCTIONS, Bandit, session, small_policy

RL: dict[str, dict[str, Any]] = {
    # Minibatches of five: now and then a rank has none of the five rows.
    "ppo": {"critic": "expert", "minibatch_size": 5, "critic_warmup_iterations": 1},
    "ppo_vlm": {"value_clip": 0.2, "mdp": "two_layer"},
    "flow_noise": {"noise_rule": "learned", "mdp": "one_layer", "entropy_coef": 0.005},
    "grpo": {**GRPO, "group_size": 4},
    # Parts of two rows, so that ranks have unequal numbers of them.
    "micro": {"micro_batch_size": 2, "minibatch_size": 7},
    "lora": {"lora_rank": 2, "critic": "expert", "micro_batch_size": 5},
    "lora_recomputed": {"lora_rank": 2, "activation_checkpointing": True},
    # RL-Co: a batch of demonstrations a minibatch, of which a rank now and then has none in a part.
    "anchored": {"sft_coef": 0.5, "sft_batch_size": 7, "minibatch_size": 7, "micro_batch_size": 2},
    "anchored_lora": {"sft_coef": 0.5, "lora_rank": 2, "critic": "expert"},
    "kl_stop": {"target_kl": 0.02, "update_epochs": 20},
}

ALL_WARM: dict[str, Any] = {"iterations": 1, "critic_warmup_iterations": 1, "weight_decay": 0.1}
WARM = {"warm_up": ALL_WARM | {"critic": "expert"}, "warm_up_lora": ALL_WARM | {"lora_rank": 2}}

OTHERS = ("pi05", "smolvla", "groot")
RL |= {f"ppo_{family}": {"critic": "expert"} for family in OTHERS}
RL |= {f"anchored_{family}": {"critic": "expert", "sft_coef": 0.5} for family in OTHERS}
SFT: dict[str, dict[str, Any]] = {
    "sft": {},
    "sft_recomputed": {"activation_checkpointing": True},
    "sft_micro": {"micro_batch_size": 2, "ema_decay": 0.5},
    **{f"sft_{family}": {} for family in OTHERS},
}


SECTION = Sft.model_validate(BASE)


def family_of(kind: str) -> str:
    """The last word of a job's name, where it is a family's."""
    last = kind.rpartition("_")[2]
    return last if last in OTHERS else "pi0"


def rl_job(kind: str, folder: Path) -> tuple[FlowPolicy, dict[str, torch.Tensor]]:
    rl: Rl = rl_params(**{"iterations": 3, "episodes_per_iteration": 24, **(RL | WARM)[kind]})
    family = family_of(kind)
    policy = small_policy(cameras=0, horizon=2, replan=2)
    if family != "pi0":
        section = POLICY.model_copy(update={"backbone": family, "horizon": 2, "replan": 2})
        policy = build_policy(ENV.model_copy(update={"cameras": []}), section, learnable(cameras=0), INSTRUCTIONS, 0)[0]
    start = copied(policy)
    frames = learnable(length=3, cameras=0)
    frames = frames._replace(actions=frames.actions[:, : len(policy.action_center)])
    anchor = Anchor(policy, frames, [], SECTION, rl.sft_batch_size, 0) if rl.sft_coef else None
    with session(folder, rl.iterations) as opened:
        train_rl(
            policy, Bandit(4, 0.8), ["b"], "none", rl, 0, stopped(opened), lambda _: {chooses("success"): 0.0},
            lambda: None, anchor=anchor,
        )  # fmt: skip
    return policy, start


def sft_job(kind: str, folder: Path) -> tuple[FlowPolicy, dict[str, torch.Tensor]]:
    # Chunks run past the episodes' ends, so the ranks hold unequal numbers of real steps.
    frames = learnable(length=3)
    section = POLICY.model_copy(update={"backbone": family_of(kind)})
    policy = build_policy(ENV, section, frames, INSTRUCTIONS, 0).policy
    # Each rank draws masks of its own: with dropout other ranks are another run.
    for module in policy.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    start = copied(policy)
    sft = Sft.model_validate(BASE | {"steps": 4, "batch_size": 7, **SFT[kind]})
    with session(folder, 4) as opened:
        train_sft(policy, frames, ENV.cameras, sft, 0, stopped(opened))
    return policy, start


def stopped(opened: Session) -> Session:
    at: Any = Bomb(opened.tracker, int(os.environ["STOP"])) if "STOP" in os.environ else opened.tracker
    return opened._replace(tracker=at)


def copied(policy: FlowPolicy) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in policy.state_dict().items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    choose_sharding()
    for kind in sys.argv[2:]:
        folder = Path(sys.argv[1]) / kind
        try:
            trained, before = sft_job(kind, folder) if kind in SFT else rl_job(kind, folder)
        except Stop:
            continue
        if join().main:
            save_file({k: v.contiguous() for k, v in trained.state_dict().items()}, folder / "trained.safetensors")
            save_file(before, folder / "start.safetensors")
    wait_for_all()
