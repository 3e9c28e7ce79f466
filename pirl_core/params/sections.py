"""Typed sections of ``params.yaml``.

A default lives in the file and nowhere else: every key is required, unknown keys are errors.
"""

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pirl_core import named
from pirl_core.facts import facts_of
from pirl_core.params.errors import unknown
from pirl_core.params.sizes import Mode, Size

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e9)]
NonNegative = Annotated[float, Field(ge=0, le=1e9)]
# Of what a machine holds or plays at once.
Count = Annotated[int, Field(ge=1, le=100_000)]
Whole = Annotated[int, Field(ge=0, le=100_000)]
# Of what it does one after the other.
Steps = Annotated[int, Field(ge=1, le=1_000_000_000)]
StepsOrNone = Annotated[int, Field(ge=0, le=1_000_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Scale = Literal["smoke", "laptop", "families", "paper", "maniskill", "put_on_plate", "simpler", "libero", "calvin"]
Precision = Literal["fp32", "bf16", "pure_bf16"]
# A part of the names of files, which have room for three and a seed.
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


def _distinct(values: list[Any]) -> list[Any]:
    twice = [value for value, times in Counter(values).items() if times > 1]
    if twice:
        raise ValueError(f"lists {twice[0]} twice; remove one")
    return values


Text = Annotated[str, Field(min_length=1, max_length=4096)]
Texts = Annotated[list[Text], AfterValidator(_distinct)]
Tasks = Annotated[Texts, Field(min_length=1)]


def _benchmark(name: str) -> str:
    try:
        facts_of(name)
    except LookupError as error:
        raise ValueError(_unknown_part(name, str(error), named.known(named.BENCHMARKS, "facts"))) from None
    return name


def _noise_rule(name: str) -> str:
    return _found(named.RULES, name)


def _family(name: str) -> str:
    return _found(named.FAMILIES, name, "family")


def _found(home: str, name: str, *module: str) -> str:
    """Found, not loaded: it computes with torch."""
    if not named.exists(home, name, *module):
        raise ValueError(_unknown_part(name, named.lacking(home, name, *module), named.known(home, *module)))
    return name


def _unknown_part(name: str, lacking: str, known: list[str]) -> str:
    return lacking if "." in name else unknown(name, known, lacking)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Env(Section):
    """What the policy acts in and sees."""

    benchmark: Annotated[Text, AfterValidator(_benchmark)]
    tasks: Tasks
    shift: Text
    episode_steps: Count
    cameras: Texts
    image_size: Annotated[int, Field(ge=32, le=512, multiple_of=16)]
    fast_render: bool
    object_state: bool
    sim_backend: Literal["cpu", "gpu"]

    @model_validator(mode="after")
    def _sees_something(self) -> "Env":
        if not self.cameras and not self.object_state:
            raise ValueError("the policy would be blind: give a camera or set object_state: true")
        return self

    @model_validator(mode="after")
    def _simulates(self) -> "Env":
        check_backend(self.benchmark, self.sim_backend, self.tasks)
        return self

    @field_validator("episode_steps")
    @classmethod
    def _within_the_protocol(cls, value: int, info: ValidationInfo) -> int:
        """That the limit is one: simulators end what has had the protocol's steps."""
        if "benchmark" in info.data and "tasks" in info.data:
            known = facts_of(info.data["benchmark"]).tasks
            limits = [known[task].steps for task in info.data["tasks"]]
            longest = max(limit for limit in limits if limit) if all(limits) else value
            if value > longest:
                each = "each subtask" if any(known[task].length > 1 for task in known) else "an episode"
                raise ValueError(f"{value} exceeds the {longest} that the protocol gives {each}; give at most those")
        return value

    @field_validator("tasks", "shift", "cameras")
    @classmethod
    def _known(cls, value: Any, info: ValidationInfo) -> Any:
        """That the benchmark has what is named."""
        if "benchmark" in info.data:
            check_names(info.data["benchmark"], str(info.field_name), value)
        return value


def check_names(benchmark: str, key: str, names: str | list[str]) -> None:
    """Raises ValueError where the benchmark lacks a task, a camera or a shift, as ``key`` says."""
    facts = facts_of(benchmark)
    known = {"tasks": facts.tasks, "cameras": facts.cameras, "shift": ("none", *facts.shifts)}[key]
    for name in [names] if isinstance(names, str) else names:
        if name not in known:
            raise ValueError(unknown(name, known, f"unknown {facts.label} {key.removesuffix('s')} '{name}'"))


def check_backend(benchmark: str, sim_backend: str, tasks: list[str]) -> None:
    """Raises ValueError where a task cannot be simulated there."""
    facts = facts_of(benchmark)
    for task in tasks:
        if sim_backend == "gpu" and task not in facts.on_gpu:
            raise ValueError(f"sim_backend: {facts.label} simulates '{task}' on the CPU alone; set it to cpu")


class Curate(Section):
    """Demonstrations of the scripted experts or of others, and the few-shot subset that SFT sees."""

    dataset: Text | None
    dataset_revision: Text | None
    seed: Seed
    episodes_per_task: Count
    still_frames: Whole
    action_noise: Annotated[float, Field(ge=0, le=1)]
    max_attempts_per_episode: Count
    keep_per_task: Count | None
    keep_episodes: Annotated[list[StepsOrNone], Field(min_length=1), AfterValidator(_distinct)] | None

    @model_validator(mode="after")
    def _of_the_script_or_of_the_dataset(self) -> "Curate":
        if self.dataset is None and self.dataset_revision is not None:
            raise ValueError("dataset_revision is that of a dataset; set it to null, or give dataset")
        if self.dataset is not None and self.still_frames:
            raise ValueError("still_frames follow the script's demonstrations; set it to 0, or dataset to null")
        return self

    @model_validator(mode="after")
    def _one_selector(self) -> "Curate":
        if self.keep_per_task is not None and self.keep_episodes is not None:
            raise ValueError("give keep_per_task or keep_episodes, not both; set the other to null")
        if self.keep_per_task is not None and self.keep_per_task > self.episodes_per_task:
            raise ValueError(f"keep_per_task {self.keep_per_task} exceeds episodes_per_task {self.episodes_per_task}")
        return self


class Policy(Section):
    """The flow policy: which family, how large, and how states and actions are put to it."""

    backbone: Annotated[Text, AfterValidator(_family)]
    size: Size
    pretrained: Text | None
    revision: Text | None
    tokenizer: Text
    state_in_prompt: bool
    normalization: Mode
    normalization_from: Literal["data", "pretrained"]
    delta_actions: Whole
    horizon: Count
    replan: Count
    denoise_steps: Count

    @model_validator(mode="after")
    def _consistent(self) -> "Policy":
        if self.replan > self.horizon:
            raise ValueError(f"replan {self.replan} exceeds horizon {self.horizon}")
        if (self.size == "full") != (self.tokenizer != "words"):
            raise ValueError("tokenizer: size full needs its own, a hub id or a folder; any other size takes 'words'")
        if self.pretrained is not None and self.size != "full":
            raise ValueError("pretrained weights are of size full; set size: full or pretrained: null")
        if self.revision is not None and self.pretrained is None:
            raise ValueError("revision is that of pretrained weights; set it to null, or give pretrained")
        if self.normalization_from == "pretrained" and self.pretrained is None:
            raise ValueError("normalization_from: pretrained needs pretrained weights; give them or say data")
        if self.state_in_prompt and self.backbone != "pi05":
            raise ValueError("state_in_prompt is pi05's way to see the state; the others see it without")
        return self


class Sft(Section):
    """Supervised flow matching on the demonstrations (Eq. 3)."""

    steps: StepsOrNone
    batch_size: Count
    micro_batch_size: Count | None
    lr: Positive
    warmup_steps: StepsOrNone
    final_lr_fraction: Fraction
    weight_decay: NonNegative
    max_grad_norm: Positive
    tau_alpha: Positive
    tau_beta: Positive
    image_shift: Whole
    image_crop: Annotated[float, Field(ge=0, lt=1)]
    image_rotation: Annotated[float, Field(ge=0, le=180)]
    image_brightness: Fraction
    image_contrast: Fraction
    image_saturation: Fraction
    image_hue: Annotated[float, Field(ge=0, le=0.5)]
    precision: Precision
    activation_checkpointing: bool
    compile: bool
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    log_every: Steps


class Rl(Section):
    """Online RL of the flow policy: noise rule, decision process, PPO or GRPO."""

    algorithm: Literal["ppo", "grpo"]
    # noise
    noise_rule: Annotated[Text, AfterValidator(_noise_rule)]
    noise_level: Annotated[float, Field(gt=0, le=2)]
    noise_schedule: Literal["constant", "linear", "reinflow"]
    noise_level_final: Annotated[float, Field(gt=0, le=2)]
    noise_min_std: Positive
    noise_max_std: Positive
    # decision process
    mdp: Literal["one_layer", "two_layer", "hybrid"]
    hybrid_draw: Literal["env", "batch"]
    logprob_reduction: Literal["sum", "official", "mean"]
    # rollouts
    iterations: Steps
    num_envs: Count
    episodes_per_iteration: Count
    group_size: Count
    # advantages
    gamma: Fraction
    gae_lambda: Fraction
    bootstrap_at_time_limit: bool
    normalize_advantages: bool
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
    max_grad_norm: Positive
    target_kl: Positive | None
    critic: Literal["vlm", "vlm_unmasked", "expert"]
    critic_layers: Literal[1, 4]
    critic_warmup_iterations: StepsOrNone
    precision: Precision
    activation_checkpointing: bool
    compile: bool
    # the VLM
    lora_rank: Whole
    lora_alpha: Count
    lora_targets: Annotated[list[Text], Field(min_length=1), AfterValidator(_distinct)]
    # validation
    validate_every: Steps
    validation_episodes_per_task: Count
    keep: Literal["best", "last"]

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
        if self.episodes_per_iteration % self.group_size:
            raise ValueError(
                f"episodes_per_iteration {self.episodes_per_iteration} is no multiple of group_size {self.group_size}"
            )
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


class Split(Section):
    """One evaluation set: the training tasks (``tasks: null``) or others, under a named shift."""

    tasks: Tasks | None
    shift: Text
    episodes_per_task: Count


class Evaluate(Section):
    """The frozen protocol. ``splits`` has the key ``id`` and any number of ``ood_<name>``."""

    seed: Seed
    num_envs: Count
    splits: dict[Name, Split]
    videos_per_outcome: Whole

    @model_validator(mode="after")
    def _has_id(self) -> "Evaluate":
        if "id" not in self.splits:
            raise ValueError("splits needs the key 'id', the in-distribution set")
        wrong = [name for name in self.splits if name != "id" and not name.startswith("ood_")]
        if wrong:
            raise ValueError(f"split '{wrong[0]}' must be called 'id' or 'ood_<name>'")
        return self


def split_label(name: str) -> str:
    """``ood_visual`` in params.yaml is ``ood:visual`` in tables."""
    return name.replace("_", ":", 1) if name.startswith("ood_") else name


class Report(Section):
    """How the results are shown."""

    title: Text


class Supervision(Section):
    """How a run is looked after: checkpoints, trackers, guards. Nothing here changes a result."""

    checkpoint_minutes: NonNegative
    trackers: Annotated[list[Literal["wandb", "trackio"]], AfterValidator(_distinct)]
    validation_videos: Whole
    warn_kl: Positive
    warn_first_ratio_error: Positive
    warn_success_drop: Fraction
    stop_kl: Positive | None
    stop_success_drop: Positive | None
    max_skipped_updates: Whole


class Experiment(Section):
    """One benchmark and one model; each section holds what it overrides, or ``{}``."""

    model: Text
    paper_model: Literal["pi0", "pi05", "smolvla", "groot"] | None
    env: dict[str, Any]
    curate: dict[str, Any]
    policy: dict[str, Any]
    sft: dict[str, Any]
    rl: dict[str, Any]
    evaluate: dict[str, Any]


class Params(Section):
    """The whole file."""

    scale: Scale
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=1000), AfterValidator(_distinct)]
    policies: Annotated[list[Name], Field(min_length=1), AfterValidator(_distinct)]
    methods: Annotated[dict[Name, dict[str, Any]], Field(max_length=100)]
    experiments: Annotated[dict[Name, Experiment], Field(min_length=1, max_length=100)]
    env: Env
    curate: Curate
    policy: Policy
    sft: Sft
    rl: Rl
    evaluate: Evaluate
    report: Report
    run: Supervision

    @model_validator(mode="after")
    def _names_agree(self) -> "Params":
        if "sft" in self.methods:
            raise ValueError("methods.sft: 'sft' names the policy before RL; call the method something else")
        strange = [name for name in self.policies if name != "sft" and name not in self.methods]
        if strange:
            raise ValueError(f"policies: {unknown(strange[0], ['sft', *self.methods])}")
        return self
