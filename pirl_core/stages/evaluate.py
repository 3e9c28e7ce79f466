"""Stage evaluate: a policy folder → one row an episode over every split, and a few videos.

With ``exploring_episodes_per_task`` a policy after RL, and the one that RL began from, also play with RL's noise.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pirl_core.files import replace_folder
from pirl_core.stages.cli import stage_main
from pirl_core.stages.job import Job, require

if TYPE_CHECKING:
    from pirl_core.evaluation.evaluate import Turn
    from pirl_core.evaluation.players import Player
    from pirl_core.params.sections import Env
    from pirl_core.policy.flow_policy import FlowPolicy
    from pirl_core.types import Episode


def run(job: Job) -> None:
    from pirl_core.envs.vector.slots import VectorEnv
    from pirl_core.evaluation.evaluate import Turn, play_turns, resumed, split_episodes
    from pirl_core.evaluation.players import deterministic
    from pirl_core.evaluation.starts import shared_starts
    from pirl_core.evaluation.written import Whose, write_episodes, write_pictures
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
        with VectorEnv(env, -(-evaluate.num_envs // here.size), groups=evaluate.env_groups) as envs:
            outcomes = play_turns(turns, envs, done, evaluate.num_envs, checkpoints, tracker, env.score)
            if not here.main:
                return
            for label, note in shared_starts(env, evaluate).items():
                print(f"{job.label} {label}: {note}", flush=True)
            write_pictures(envs, env, evaluate, outcomes, splits.keys(), folder, tracker, job.label)
        whose = Whose(job.experiment, env.benchmark, job.entry.model, job.method, job.seed)
        write_episodes(outcomes, whose, env.score, folder)


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


if __name__ == "__main__":
    raise SystemExit(stage_main("evaluate", run))
