"""Stage curate: experts' demonstrations → ``outputs/curate/<experiment>``."""

from pathlib import Path

from pirl_core.stages.cli import Job, stage_main


def run(job: Job) -> None:
    from pirl_core.curate import make_dataset

    make_dataset(job.run.env, job.run.curate, Path("outputs/curate") / job.name)


if __name__ == "__main__":
    raise SystemExit(stage_main("curate", run))
