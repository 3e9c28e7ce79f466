"""The section ``rl``."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pirl_core import named
from pirl_core.params.sections.evaluate import Split
from pirl_core.params.sections.fields import (
    Count,
    Fraction,
    Groups,
    Name,
    NonNegative,
    Positive,
    Precision,
    Record,
    Section,
    Steps,
    StepsOrNone,
    Text,
    Whole,
    distinct,
    found,
)


def known_rule(name: str) -> str:
    """A noise rule's name. Raises ValueError where there is none."""
    found(named.RULES, name)
    if not named.defines(named.RULES, name, "weights"):
        raise ValueError(f"{name} has no function weights(tau, delta, level) of its own")
    return name


class Sac(Section):
    """SAC Flow: off-policy, from a replay buffer, with twin critics."""

    decisions_per_iteration: Count
    replay_size: Steps
    random_decisions: StepsOrNone
    learning_starts: Steps
    updates_per_decision: Count
    batch_size: Count
    target_rate: Annotated[float, Field(gt=0, le=1)] | None
    renorm_warmup: StepsOrNone
    actor_every: Count
    critic_width: Count
    critic_layers: Count
    temperature: Positive
    temperature_lr: NonNegative
    target_entropy: Annotated[float, Field(ge=-100, le=100)]
    proximal_coef: NonNegative


class Rl(Section):
    """Online RL of the flow policy: noise rule, decision process, PPO, GRPO or SAC."""

    algorithm: Literal["ppo", "grpo", "sac"]
    # noise
    noise_rule: Annotated[Text, AfterValidator(known_rule)]
    noise_level: Annotated[float, Field(gt=0, le=2)]
    noise_schedule: Literal["constant", "linear", "reinflow"]
    noise_level_final: Annotated[float, Field(gt=0, le=2)]
    noise_min_std: Positive
    noise_max_std: Positive
    chain_bound: Positive | None
    # decision process
    mdp: Literal["one_layer", "two_layer", "hybrid"]
    hybrid_draw: Literal["env", "batch"]
    logprob_reduction: Literal["sum", "official", "mean"]
    # rollouts
    iterations: Steps
    num_envs: Count
    env_groups: Groups
    episodes_per_iteration: Count
    group_size: Count
    # advantages
    gamma: Fraction
    gae_lambda: Fraction
    bootstrap_at_time_limit: bool
    normalize_advantages: bool
    reward_scale: bool
    # update
    update_epochs: Count
    minibatch_size: Count
    micro_batch_size: Count | None
    context_device_gib: NonNegative
    context_host_gib: NonNegative
    actor_lr: Positive
    critic_lr: Positive
    lr_schedule: Literal["constant", "cosine"]
    final_lr_fraction: Fraction
    weight_decay: NonNegative
    clip_ratio: Positive
    value_clip: Positive | None
    huber_delta: Positive
    value_coef: Positive
    entropy_coef: NonNegative
    w2_coef: NonNegative
    sft_coef: NonNegative
    sft_batch_size: Count
    max_grad_norm: Positive
    target_kl: Positive | None
    critic: Literal["vlm", "vlm_unmasked", "expert"]
    critic_layers: Literal[1, 4]
    critic_warmup_iterations: StepsOrNone
    precision: Precision
    activation_checkpointing: bool
    compile: bool
    dropout: bool
    # the VLM
    lora_rank: Whole
    lora_alpha: Count
    lora_targets: Annotated[list[Text], Field(min_length=1), AfterValidator(distinct)]
    # validation
    validate_every: Steps
    validation_episodes_per_task: Count
    keep: Literal["best", "last"]
    watch: dict[Name, Split]
    record: Record
    sac: Sac

    @model_validator(mode="after")
    def _consistent(self) -> "Rl":
        if self.noise_min_std >= self.noise_max_std:
            raise ValueError(f"noise_min_std {self.noise_min_std} must be below noise_max_std {self.noise_max_std}")
        if self.algorithm == "grpo" and self.group_size < 2:
            raise ValueError("grpo compares episodes of one initial state: set group_size to 2 or more")
        if self.algorithm == "grpo" and self.normalize_advantages:
            raise ValueError(
                "normalize_advantages is ppo's: grpo's advantages are normalised within their group, and would no"
                " longer be 0 where a group says nothing; set it to false"
            )
        if self.algorithm == "sac" and (self.mdp, self.logprob_reduction) != ("one_layer", "sum"):
            raise ValueError("sac learns through the whole chain: set mdp: one_layer and logprob_reduction: sum")
        if self.w2_coef and (self.lora_rank or self.dropout or self.algorithm == "sac"):
            raise ValueError(
                "w2_coef is ppo's and grpo's, of an expert that learns alone and without dropout: set lora_rank: 0 and"
                " dropout: false, or w2_coef: 0"
            )
        if self.algorithm == "sac" and (self.record != "none" or self.sft_coef or self.lora_rank):
            raise ValueError(
                "sac has no rollouts to record, no anchor, no adapters: record: none, sft_coef: 0, lora_rank: 0"
            )
        if self.episodes_per_iteration % self.group_size:
            raise ValueError(
                f"episodes_per_iteration {self.episodes_per_iteration} is no multiple of group_size {self.group_size}"
            )
        return self

    @model_validator(mode="after")
    def _watches_what_is_not_trained(self) -> "Rl":
        wrong = [name for name in self.watch if not name.startswith("ood_")]
        if wrong:
            raise ValueError(f"watch '{wrong[0]}' must be called 'ood_<name>'; validation plays the training tasks")
        return self

    @model_validator(mode="after")
    def _turns_by_a_right_angle_at_most(self) -> "Rl":
        scheduled = {} if self.noise_schedule == "constant" else {"noise_level_final": self.noise_level_final}
        for key, level in {"noise_level": self.noise_level, **scheduled}.items():
            if self.noise_rule == "flow_cps" and level > 1:
                raise ValueError(
                    f"{key} {level:g}: flow_cps turns the noise by πa/2 = {90 * level:g}°; beyond 90° cos(πa/2) < 0"
                    f" reverses it, and sin(πa/2) adds no more than at {2 - level:g}; give at most 1"
                )
        return self
