"""Stage sft: demonstrations → a policy folder, and the curve of its loss. 0 steps: published weights as they are."""

from pathlib import Path

from pirl_core.stages.cli import stage_main
from pirl_core.stages.job import Job, require


def run(job: Job) -> None:
    from pirl_core.data.domains import joined, read_real
    from pirl_core.data.lerobot import read_dataset
    from pirl_core.errors import UserError
    from pirl_core.facts import facts_in
    from pirl_core.files import write_json
    from pirl_core.policy.folder import save_policy
    from pirl_core.sft.build import build_policy
    from pirl_core.sft.train import demonstrated, train_sft
    from pirl_core.training.session import open_session

    env, sft = job.run.env, job.run.sft
    if not sft.steps and job.run.policy.pretrained is None:
        raise UserError(
            "sft.steps = 0: policy.pretrained is null, so the policy would be random; give weights or steps"
        )
    source = Path("outputs/curate") / job.experiment
    require(source, f"curate@{job.experiment}")
    frames, sim = read_dataset(source, list(env.cameras), env.object_state), None
    if sft.sim_share is not None and sft.sim_share < 1:
        real = read_real(source, env)
        sim = len(frames.state) if sft.sim_share else None
        frames = joined(frames, real) if sft.sim_share else real
    facts = facts_in(env)
    if env.benchmark is not None and frames.actions.shape[1] != len(facts.action):
        raise UserError(
            f"{source}: action has {frames.actions.shape[1]} numbers, {facts.label} takes {len(facts.action)}"
        )
    # The data's own sentences too: a word that the tokenizer does not know would be lost on the policy.
    instructions = list(dict.fromkeys([*facts.sentences(), *frames.tasks]))
    policy, origin = build_policy(env, job.run.policy, frames, instructions, job.seed, bool(sft.steps))
    with open_session(
        job.stage,
        job.name,
        job.fingerprint([source]),
        job.parameters(),
        job.supervision,
        sft.steps,
        policy=Path("outputs/policy") / f"{job.experiment}-sft-{job.seed}",
        log=Path("outputs/sft") / job.name,
    ) as session:
        if session.ranks.main and origin:
            for note in origin["notes"]:
                print(f"{job.label} note: {note}", flush=True)
        if sft.steps:
            train_sft(policy, frames, env.cameras, sft, job.seed, session, sim)
        else:
            session.tracker.log(0, demonstrated(frames), ())
            policy.precision = sft.precision
        if session.ranks.main:
            save_policy(policy, session.policy)
            if origin:
                write_json(session.log / "pretrained.json", origin)


if __name__ == "__main__":
    raise SystemExit(stage_main("sft", run))
