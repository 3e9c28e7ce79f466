"""Stage rl: an SFT policy → the policy after online RL, its curves, and the last checkpoint beside the kept one."""

from pathlib import Path

from pirl_core.files import replace_folder
from pirl_core.stages.cli import Job, stage_main


def run(job: Job) -> None:
    from pirl_core.envs.metaworld import ACTION_DIM, state_dim
    from pirl_core.envs.vector import VectorEnv
    from pirl_core.evaluate import run_episodes, success_rate, validation_episodes
    from pirl_core.policy.folder import load_policy, require_fit, save_policy
    from pirl_core.rl.train import train_rl
    from pirl_core.track import Tracker

    env, rl = job.run.env, job.run.rl
    source = Path("outputs/policy") / f"{job.experiment}-sft-{job.seed}"
    policy = load_policy(source)
    require_fit(policy, env, state_dim(env.object_state), ACTION_DIM, source)
    held_out = validation_episodes(env, job.seed, rl.validation_episodes_per_task)
    with (
        replace_folder(Path("outputs/policy") / job.name) as folder,
        replace_folder(Path("outputs/rl") / job.name) as log,
        VectorEnv(env, rl.num_envs) as envs,
    ):
        with Tracker(f"rl {job.name}", log, Path(".pirl/tensorboard/rl") / job.name, rl.iterations) as tracker:
            train_rl(
                policy,
                envs,
                env.tasks,
                rl,
                job.seed,
                tracker,
                validate=lambda: success_rate(run_episodes(policy, envs, held_out)),
                on_improved=lambda: save_policy(policy, folder),
            )
        last = log / "last"
        last.mkdir()
        save_policy(policy, last)
        if rl.keep == "last":
            save_policy(policy, folder)


if __name__ == "__main__":
    raise SystemExit(stage_main("rl", run))
