"""Stage evaluate: a policy folder → one row an episode over every split, and a few videos."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pirl_core.files import naming, replace_folder
from pirl_core.stages.cli import stage_main
from pirl_core.stages.job import Job, require

if TYPE_CHECKING:
    from pirl_core.evaluation.evaluate import Outcome


def run(job: Job) -> None:
    import pandas as pd
    import torch

    from pirl_core.envs.vector.slots import VectorEnv
    from pirl_core.evaluation.evaluate import play_splits, resumed, split_episodes
    from pirl_core.evaluation.starts import shared_starts
    from pirl_core.evaluation.videos import choose, write_videos
    from pirl_core.params.sections import split_label
    from pirl_core.policy.folder import load_policy, require_fit
    from pirl_core.policy.precision import round_weights
    from pirl_core.training import ranks
    from pirl_core.training.resume import open_checkpoints
    from pirl_core.training.track import Tracker

    env, evaluate = job.run.env, job.run.evaluate
    source = Path("outputs/policy") / job.name
    require(source, f"sft@{job.experiment}-{job.seed}" if job.method == "sft" else f"rl@{job.name}")
    policy = load_policy(source)
    require_fit(policy, env, source)
    here = ranks.join()
    round_weights(policy, policy.precision)
    policy.to("cuda" if torch.cuda.is_available() else "cpu")
    splits = {name: split_episodes(env, evaluate, name) for name in evaluate.splits}
    total = sum(map(len, splits.values()))
    minutes = job.supervision.checkpoint_minutes
    checkpoints = open_checkpoints(job.stage, job.name, minutes, job.fingerprint([source]))
    done = resumed(checkpoints, splits, job.label)
    if done and here.main:
        print(f"{job.label} resumed at {len(done)}/{total}", flush=True)
    with (
        replace_folder(Path("outputs/evaluate") / job.name, here.main) as folder,
        Tracker(job.stage, job.name, total, None, resumed=len(done), main=here.main) as tracker,
    ):
        with VectorEnv(env, -(-evaluate.num_envs // here.size)) as envs:
            outcomes = play_splits(policy, envs, splits, done, evaluate.num_envs, checkpoints, tracker)
            if not here.main:
                return
            for label, note in shared_starts(env, evaluate).items():
                print(f"{job.label} {label}: {note}", flush=True)
            filmed = []
            for name, played in outcomes.items():
                label = split_label(name)
                filmed += choose(label, played, evaluate.videos_per_outcome)
                print(f"{job.label} {label} {sum(outcome.success for outcome in played)}/{len(played)}", flush=True)
            write_videos(envs, filmed, folder / "videos", tracker)
        table = folder / "episodes.parquet"
        with naming(table):
            pd.DataFrame(_rows(job, outcomes)).to_parquet(table, index=False)


def _rows(job: Job, outcomes: dict[str, list["Outcome"]]) -> list[dict[str, Any]]:
    """One row an episode."""
    from pirl_core.params.sections import split_label

    return [
        {
            "experiment": job.experiment,
            "benchmark": job.run.env.benchmark,
            "model": job.entry.model,
            "method": job.method,
            "seed": job.seed,
            "split": split_label(name),
            "task": outcome.episode.task,
            "episode": index % job.run.evaluate.splits[name].episodes_per_task,
            "env_seed": outcome.episode.seed,
            "success": outcome.success,
            "steps": outcome.steps,
            "reward": outcome.reward,
        }
        for name, played in outcomes.items()
        for index, outcome in enumerate(played)
    ]


if __name__ == "__main__":
    raise SystemExit(stage_main("evaluate", run))
