"""Stage rl: an SFT policy → the policy after online RL, its curves, and the last checkpoint beside the kept one."""

from pathlib import Path
from shutil import rmtree

from pirl_core.stages.cli import stage_main
from pirl_core.stages.job import Job, require


def run(job: Job) -> None:
    from pirl_core.data.domains import REAL, read_real
    from pirl_core.envs.opening import settings_of
    from pirl_core.envs.vector.replay import Take, render_episode
    from pirl_core.envs.vector.slots import VectorEnv
    from pirl_core.evaluation.evaluate import (
        load_outcomes,
        mean_score,
        run_episodes,
        save_outcomes,
        validation_episodes,
        watched_episodes,
    )
    from pirl_core.evaluation.players import deterministic
    from pirl_core.evaluation.rollouts import Heard, kept_line, write_rollouts
    from pirl_core.evaluation.videos import EVERY, FPS, SIZE
    from pirl_core.params.sections import split_label
    from pirl_core.policy.exploration import save_exploration
    from pirl_core.policy.folder import load_policy, require_fit, save_policy
    from pirl_core.rl.anchor import Anchor
    from pirl_core.rl.sac.train import train_sac
    from pirl_core.rl.train import chooses, iteration_episodes, noise_at, train_rl
    from pirl_core.training import ranks
    from pirl_core.training.session import open_session

    env, rl, shown = job.run.env, job.run.rl, Path("outputs/curate") / job.experiment
    source = Path("outputs/policy") / f"{job.experiment}-sft-{job.seed}"
    require(source, f"sft@{job.experiment}-{job.seed}")
    policy = load_policy(source)
    require_fit(policy, env, source)
    inputs, anchor = [source], None
    if rl.sft_coef:
        anchor = Anchor(policy, read_real(shown, env), env.cameras, job.run.sft, rl.sft_batch_size, job.seed)
        inputs.append(shown / REAL)
    held_out = validation_episodes(env, job.seed, rl.validation_episodes_per_task)
    watched = {split_label(name): watched_episodes(env, job.seed, split) for name, split in rl.watch.items()}
    here = ranks.join()
    with (
        open_session(
            job.stage,
            job.name,
            job.fingerprint(inputs),
            job.parameters(),
            job.supervision,
            rl.iterations,
            policy=Path("outputs/policy") / job.name,
            log=Path("outputs/rl") / job.name,
        ) as session,
        VectorEnv(env, -(-rl.num_envs // here.size), groups=rl.env_groups) as envs,
    ):

        def validate(iteration: int) -> dict[str, float]:
            player = deterministic(policy)
            outcomes = run_episodes(player, envs, held_out)
            if here.main:
                for number, outcome in enumerate(outcomes[: job.supervision.validation_videos]):
                    take = Take(outcome.episode, outcome.actions)
                    film = render_episode(settings_of(env), take, SIZE, EVERY, fast=True)
                    session.tracker.video(iteration, f"validation/{number}", film.frames, FPS)
            seen = {label: run_episodes(player, envs, those) for label, those in watched.items()}
            means = {f"validation/{label}": mean_score(played, env.score) for label, played in seen.items()}
            return {chooses(env.score): mean_score(outcomes, env.score), **means}

        def write(folder: Path) -> None:
            save_policy(policy, folder)
            save_exploration(policy, noise_at(rl, rl.iterations - 1), rl.mdp, folder)

        def keep() -> None:
            if here.main:
                write(session.policy)

        heard, played, record = Heard(envs), session.log / "played", rl.record != "none"

        def remember(iteration: int) -> None:
            if record:
                outcomes = ranks.gathered(heard.taken())
                if here.main:
                    folder = played / f"{iteration:06d}"
                    folder.mkdir(parents=True, exist_ok=True)
                    save_outcomes(sorted(outcomes, key=lambda outcome: outcome.episode), folder)

        world = heard if record else envs
        if rl.algorithm == "sac":
            train_sac(policy, envs, env.tasks, env.shift, rl, job.seed, session, validate, keep, env.score)
        else:
            train_rl(
                policy, world, env.tasks, env.shift, rl, job.seed, session, validate, keep, remember, anchor, env.score
            )
        if here.main and record:
            outcomes = []
            for iteration in range(rl.iterations):
                episodes = sorted(iteration_episodes(env.tasks, env.shift, rl, job.seed, iteration))
                outcomes += load_outcomes(played / f"{iteration:06d}", episodes)
            kept = write_rollouts(envs, env, outcomes, rl.record, session.log / "rollouts", session.tracker)
            print(f"{job.label} rollouts: {kept_line(kept, outcomes, rl.record, env.score)}", flush=True)
            rmtree(played)
        if here.main:
            last = session.log / "last"
            last.mkdir()
            write(last)
        if rl.keep == "last":
            keep()


if __name__ == "__main__":
    raise SystemExit(stage_main("rl", run))
