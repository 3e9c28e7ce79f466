"""Stage curate: experts' demonstrations → ``outputs/curate/<experiment>``."""

import json
from pathlib import Path

from pirl_core.stages.cli import stage_main
from pirl_core.stages.job import Job


def run(job: Job) -> None:
    from pirl_core.data.curate import dataset_size, make_dataset
    from pirl_core.data.domains import REAL
    from pirl_core.training.resume import open_checkpoints
    from pirl_core.training.track import Tracker

    env, curate = job.run.env, job.run.curate
    minutes = job.supervision.checkpoint_minutes
    checkpoints = open_checkpoints(job.stage, job.name, minutes, job.fingerprint([]), kept=None)
    with Tracker(job.stage, job.name, dataset_size(env, curate), None) as tracker:
        folder = Path("outputs/curate") / job.name
        make_dataset(env, curate, folder, checkpoints, tracker)
    for path in (folder, folder / REAL) if curate.real else (folder,):
        for note in json.loads((path / "meta/curation.json").read_text())["hardly_varying"]:
            print(f"{job.label} note: {note}", flush=True)


if __name__ == "__main__":
    raise SystemExit(stage_main("curate", run))
