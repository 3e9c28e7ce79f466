"""Stage evaluate: a policy folder → one row an episode over every split, and a few videos.

With ``exploring_episodes_per_task`` a policy after RL, and the one that RL began from, also play with RL's noise.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pirl_core.files import naming, replace_folder
from pirl_core.stages.cli import stage_main
from pirl_core.stages.job import Job, require

if TYPE_CHECKING:
    from pirl_core.evaluation.evaluate import Outcome, Turn
    from pirl_core.evaluation.players import Player
    from pirl_core.facts import Score
    from pirl_core.params.sections import Env
    from pirl_core.policy.flow_policy import FlowPolicy
    from pirl_core.types import Episode


def run(job: Job) -> None:
    import pandas as pd

    from pirl_core.envs.vector.slots import VectorEnv
    from pirl_core.evaluation.evaluate import Turn, play_turns, resumed, split_episodes
    from pirl_core.evaluation.players import deterministic
    from pirl_core.evaluation.rollouts import write_rollouts
    from pirl_core.evaluation.starts import shared_starts
    from pirl_core.evaluation.videos import choose, write_videos
    from pirl_core.params.sections import exploring_labels, split_label
    from pirl_core.training import ranks
    from pirl_core.training.resume import open_checkpoints
    from pirl_core.training.track import Tracker

    env, evaluate = job.run.env, job.run.evaluate
    source = Path("outputs/policy") / job.name
    require(source, f"sft@{job.experiment}-{job.seed}" if job.method == "sft" else f"rl@{job.name}")
    here = ranks.join()
    policy = _loaded(source, env)
    splits = {split_label(name): split_episodes(env, evaluate, name) for name in evaluate.splits}
    turns = [Turn(label, episodes, lambda: deterministic(policy)) for label, episodes in splits.items()]
    inputs = [source]
    if exploring_labels(evaluate, job.method):
        start = Path("outputs/policy") / f"{job.experiment}-sft-{job.seed}"
        require(start, f"sft@{job.experiment}-{job.seed}")
        first = [episode for episode in splits["id"] if episode.number < evaluate.exploring_episodes_per_task]
        turns += _exploring_turns(policy, source, start, env, first)
        inputs.append(start)
    total = sum(len(turn.episodes) for turn in turns)
    minutes = job.supervision.checkpoint_minutes
    checkpoints = open_checkpoints(job.stage, job.name, minutes, job.fingerprint(inputs))
    done = resumed(checkpoints, turns, job.label)
    if done and here.main:
        print(f"{job.label} resumed at {len(done)}/{total}", flush=True)
    with (
        replace_folder(Path("outputs/evaluate") / job.name, here.main) as folder,
        Tracker(job.stage, job.name, total, None, resumed=len(done), main=here.main) as tracker,
    ):
        with VectorEnv(env, -(-evaluate.num_envs // here.size)) as envs:
            outcomes = play_turns(turns, envs, done, evaluate.num_envs, checkpoints, tracker, env.score)
            if not here.main:
                return
            for label, note in shared_starts(env, evaluate).items():
                print(f"{job.label} {label}: {note}", flush=True)
            filmed = []
            for label, played in outcomes.items():
                if label in splits:
                    filmed += choose(label, played, evaluate.videos_per_outcome, env.score)
                print(f"{job.label} {label} {_said(played, env.score)}", flush=True)
            write_videos(envs, filmed, folder / "videos", tracker, env.score)
            if evaluate.record != "none":
                for label, played in outcomes.items():
                    home = folder / "rollouts" / label.replace(":", "_")
                    kept = write_rollouts(envs, env, played, evaluate.record, home, tracker)
                    print(f"{job.label} {label}: {kept} episodes kept in rollouts/{home.name}", flush=True)
        table = folder / "episodes.parquet"
        with naming(table):
            frame = pd.DataFrame(_rows(job, outcomes))
            if env.score == "return":
                frame["success"] = pd.array([None] * len(frame), "boolean")
            frame.to_parquet(table, index=False)


def _loaded(folder: Path, env: "Env") -> "FlowPolicy":
    from pirl_core.evaluation.players import ready
    from pirl_core.policy.folder import load_policy, require_fit

    policy = load_policy(folder)
    require_fit(policy, env, folder)
    return ready(policy)


def _exploring_turns(
    policy: "FlowPolicy", source: Path, start: Path, env: "Env", episodes: list["Episode"]
) -> list["Turn"]:
    """Of the policy after RL, of folder ``source``, and of the one before RL, in ``start``, under the same noise."""
    from pirl_core.evaluation.evaluate import Turn
    from pirl_core.evaluation.players import exploring
    from pirl_core.params.sections import EXPLORING, EXPLORING_BEFORE
    from pirl_core.policy.exploration import load_exploration

    shape = policy.backbone.shape
    after, before = load_exploration(source, shape, "after"), load_exploration(source, shape, "before")

    def player_before() -> "Player":
        policy.to("cpu")
        return exploring(_loaded(start, env), before)

    return [
        Turn(EXPLORING, episodes, lambda: exploring(policy, after)),
        Turn(EXPLORING_BEFORE, episodes, player_before),
    ]


def _said(played: list["Outcome"], score: "Score") -> str:
    if score == "success":
        return f"{sum(outcome.success for outcome in played)}/{len(played)}"
    return f"return {sum(outcome.reward for outcome in played) / len(played):.1f} of {len(played)}"


def _rows(job: Job, outcomes: dict[str, list["Outcome"]]) -> list[dict[str, Any]]:
    """One row an episode."""
    return [
        {
            "experiment": job.experiment,
            "benchmark": job.run.env.benchmark,
            "model": job.entry.model,
            "method": job.method,
            "seed": job.seed,
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


if __name__ == "__main__":
    raise SystemExit(stage_main("evaluate", run))
