"""Stage evaluate: a policy folder → one row an episode over every split, and a few videos."""

from pathlib import Path

from pirl_core.files import replace_folder
from pirl_core.stages.cli import Job, stage_main


def run(job: Job) -> None:
    import pandas as pd
    import torch

    from pirl_core.envs.metaworld import ACTION_DIM, state_dim
    from pirl_core.envs.vector import VectorEnv
    from pirl_core.evaluate import run_episodes, split_episodes
    from pirl_core.params import split_label
    from pirl_core.policy.folder import load_policy, require_fit
    from pirl_core.videos import choose, write_videos

    env, evaluate = job.run.env, job.run.evaluate
    source = Path("outputs/policy") / job.name
    policy = load_policy(source)
    require_fit(policy, env, state_dim(env.object_state), ACTION_DIM, source)
    policy.to("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    filmed = []
    with replace_folder(Path("outputs/evaluate") / job.name) as folder:
        with VectorEnv(env, evaluate.num_envs) as envs:
            for name in evaluate.splits:
                label = split_label(name)
                outcomes = run_episodes(policy, envs, split_episodes(env, evaluate, name))
                filmed += choose(label, outcomes, evaluate.videos_per_outcome)
                for index, outcome in enumerate(outcomes):
                    rows.append(
                        {
                            "experiment": job.experiment,
                            "benchmark": job.entry.benchmark,
                            "model": job.entry.model,
                            "method": job.method,
                            "seed": job.seed,
                            "split": label,
                            "task": outcome.episode.task,
                            "episode": index % evaluate.splits[name].episodes_per_task,
                            "env_seed": outcome.episode.seed,
                            "success": outcome.success,
                            "steps": outcome.steps,
                            "reward": outcome.reward,
                        }
                    )
                done = sum(outcome.success for outcome in outcomes)
                print(f"[evaluate {job.name}] {label} {done}/{len(outcomes)}", flush=True)
        pd.DataFrame(rows).to_parquet(folder / "episodes.parquet", index=False)
        write_videos(env, filmed, folder / "videos")


if __name__ == "__main__":
    raise SystemExit(stage_main("evaluate", run))
