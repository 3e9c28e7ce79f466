"""Stage sft: demonstrations → a policy folder, and the curve of its loss."""

from pathlib import Path

from pirl_core.files import replace_folder
from pirl_core.stages.cli import Job, stage_main


def run(job: Job) -> None:
    from pirl_core.data.lerobot import read_dataset
    from pirl_core.envs.metaworld import ACTION_DIM
    from pirl_core.envs.metaworld_tasks import TASKS
    from pirl_core.errors import UserError
    from pirl_core.policy.build import build_policy
    from pirl_core.policy.folder import save_policy
    from pirl_core.sft import train_sft
    from pirl_core.track import Tracker

    env, sft = job.run.env, job.run.sft
    source = Path("outputs/curate") / job.experiment
    frames = read_dataset(source, list(env.cameras), env.object_state)
    if frames.actions.shape[1] != ACTION_DIM:
        raise UserError(
            f"{source}: action has {frames.actions.shape[1]} numbers, {job.entry.benchmark} takes {ACTION_DIM}"
        )
    instructions = [task.instruction for task in TASKS.values()]
    policy = build_policy(env, job.run.policy, frames, instructions, job.seed)
    curves = Path("outputs/sft") / job.name
    with (
        replace_folder(Path("outputs/policy") / f"{job.experiment}-sft-{job.seed}") as folder,
        replace_folder(curves) as log,
    ):
        with Tracker(f"sft {job.name}", log, Path(".pirl/tensorboard/sft") / job.name, sft.steps) as tracker:
            train_sft(policy, frames, sft, job.seed, tracker)
        save_policy(policy, folder)


if __name__ == "__main__":
    raise SystemExit(stage_main("sft", run))
