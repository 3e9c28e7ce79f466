"""What an evaluation leaves in its folder: one row an episode, a few videos, and the episodes where they are kept."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.evaluation.evaluate import Outcome
from pirl_core.evaluation.rollouts import kept_line, write_rollouts
from pirl_core.evaluation.videos import choose, write_videos
from pirl_core.facts import Score
from pirl_core.files import naming
from pirl_core.params.sections import Env, Evaluate
from pirl_core.training.track import Tracker

TABLE = "episodes.parquet"


class Whose(NamedTuple):
    """The columns that all rows of an evaluation share. method: 'sft' for the policy before RL; the name under which
    a policy of somebody else stands beside them. seed: of training."""

    experiment: str
    benchmark: str | None
    model: str
    method: str
    seed: int


def write_pictures(
    envs: VectorEnv,
    env: Env,
    evaluate: Evaluate,
    outcomes: dict[str, list[Outcome]],
    splits: Collection[str],
    folder: Path,
    tracker: Tracker,
    said: str,
) -> None:
    """Videos and kept episodes. splits: the labels, among those of ``outcomes``, of which videos are made. said: how
    its lines on the terminal begin."""
    filmed = []
    for label, played in outcomes.items():
        if label in splits:
            filmed += choose(label, played, evaluate.videos_per_outcome, env.score)
        print(f"{said} {label} {_said(played, env.score)}", flush=True)
    write_videos(envs, filmed, folder / "videos", tracker, env.score)
    if evaluate.record != "none":
        for label, played in outcomes.items():
            home = folder / "rollouts" / label.replace(":", "_")
            kept = write_rollouts(envs, env, played, evaluate.record, home, tracker)
            line = kept_line(kept, played, evaluate.record, env.score)
            print(f"{said} {label}, rollouts/{home.name}: {line}", flush=True)


def write_episodes(outcomes: dict[str, list[Outcome]], whose: Whose, score: Score, folder: Path) -> pd.DataFrame:
    """The table of episodes; returns it. Where returns count, ``success`` says nothing."""
    table = pd.DataFrame(_rows(outcomes, whose))
    if score == "return":
        table["success"] = pd.array([None] * len(table), "boolean")
    with naming(folder / TABLE):
        table.to_parquet(folder / TABLE, index=False)
    return table


def _said(played: list[Outcome], score: Score) -> str:
    if score == "success":
        return f"{sum(outcome.success for outcome in played)}/{len(played)}"
    return f"return {sum(outcome.reward for outcome in played) / len(played):.1f} of {len(played)}"


def _rows(outcomes: dict[str, list[Outcome]], whose: Whose) -> list[dict[str, Any]]:
    return [
        {
            **whose._asdict(),
            "split": label,
            "task": outcome.episode.task,
            "episode": outcome.episode.number,
            "env_seed": outcome.episode.seed,
            "success": outcome.success,
            "steps": outcome.steps,
            "reward": outcome.reward,
        }
        for label, played in outcomes.items()
        for outcome in played
    ]
