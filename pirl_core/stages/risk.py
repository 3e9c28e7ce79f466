"""Stage risk: a tabular world and a way to explore it → the regret of one learner a risk parameter γ, by episodes."""

from pathlib import Path

from pirl_core.files import replace_folder
from pirl_core.stages.cli import stage_main
from pirl_core.stages.job import Job


def run(job: Job) -> None:
    import numpy as np

    from pirl_core.risk.beta import optimum
    from pirl_core.risk.learn import learn, regret_bound
    from pirl_core.risk.model import metric, pomdp_of
    from pirl_core.training.track import Tracker

    risk = job.run.risk
    (world,), (method,) = risk.experiments.values(), risk.methods.values()
    pomdp, gammas = pomdp_of(world), risk.gammas
    best = np.array([optimum(pomdp, gamma).value for gamma in gammas])
    bounds = [regret_bound(pomdp, gamma, risk.episodes, risk.delta) for gamma in gammas]
    learners = [learn(pomdp, gamma, method, risk.episodes, risk.delta, job.seed) for gamma in gammas]
    with (
        replace_folder(Path("outputs/risk") / job.name) as folder,
        Tracker(
            job.stage, job.name, risk.episodes, folder, job.supervision.trackers, config=job.parameters()
        ) as tracker,
    ):

        def log(step: int, shown: tuple[str, ...], **of: np.ndarray | list[float]) -> None:
            values = {metric(name, gamma): x for name, many in of.items() for gamma, x in zip(gammas, many)}
            tracker.log(step, values, shown)

        log(0, (), optimum=best, bound=bounds)
        regret = np.zeros(len(gammas))
        for episode, values in enumerate(zip(*learners), 1):
            regret += best - values
            if episode % risk.log_every == 0 or episode == risk.episodes:
                log(episode, tuple(metric("regret", gamma) for gamma in gammas), regret=regret, value=list(values))


if __name__ == "__main__":
    raise SystemExit(stage_main("risk", run))
