"""The section ``evaluate``."""

from pydantic import model_validator

from pirl_core.params.sections.fields import Count, Groups, Name, Record, Section, Seed, Tasks, Text, Whole

EXPLORING, EXPLORING_BEFORE = "id:exploring", "id:exploring_before"
"""Labels of what is played with exploration noise: by the policy after RL, and by the one that RL began from."""


class Split(Section):
    """One evaluation set: the training tasks (``tasks: null``) or others, under a named shift."""

    tasks: Tasks | None
    shift: Text
    episodes_per_task: Count


class Evaluate(Section):
    """The frozen protocol. ``splits`` has the key ``id`` and any number of ``ood_<name>``."""

    seed: Seed
    num_envs: Count
    env_groups: Groups
    splits: dict[Name, Split]
    exploring_episodes_per_task: Whole
    videos_per_outcome: Whole
    record: Record

    @model_validator(mode="after")
    def _has_id(self) -> "Evaluate":
        if "id" not in self.splits:
            raise ValueError("splits needs the key 'id', the in-distribution set")
        wrong = [name for name in self.splits if name != "id" and not name.startswith("ood_")]
        if wrong:
            raise ValueError(f"split '{wrong[0]}' must be called 'id' or 'ood_<name>'")
        return self

    @model_validator(mode="after")
    def _explores_in_the_same_episodes(self) -> "Evaluate":
        wanted, most = self.exploring_episodes_per_task, self.splits["id"].episodes_per_task
        if wanted > most:
            raise ValueError(
                f"exploring_episodes_per_task {wanted} exceeds the {most} of splits.id; give at most those"
            )
        return self


def split_label(name: str) -> str:
    """``ood_visual`` in params.yaml is ``ood:visual`` in tables."""
    return name.replace("_", ":", 1) if name.startswith("ood_") else name


def exploring_labels(evaluate: Evaluate, policy: str) -> list[str]:
    """What ``policy`` plays with exploration noise; nothing where it is 'sft', which never explored."""
    return [EXPLORING, EXPLORING_BEFORE] if evaluate.exploring_episodes_per_task and policy != "sft" else []
