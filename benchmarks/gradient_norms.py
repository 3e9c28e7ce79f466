"""SAC Flow's figure of gradients: ‖∂ −Q / ∂ A^k‖ over the denoising chain, after training, of the naive mlp, Flow-G and
Flow-T (arXiv 2509.25756, Sec. 5).

Of -Q alone, through the last action: the temperature times the path's log-density adds to each state a term that is
noise over std, the same for every family.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.locomotion import setting, trained
from benchmarks.measure import Row, part_parser, run_part
from pirl_core import seeds
from pirl_core.flow.chain import Score
from pirl_core.rl.sac.gradients import gradient_norms
from pirl_core.rl.train import noise_at

FAMILIES = {"mlp": "tiny", "flow_g": "S", "flow_t": "tiny"}
"""With their sizes, which are the paper's."""
ROWS = 256


def norms(task: str, family: str, steps: int, updates: int, batch: int, sft: int, seed: int) -> list[float]:
    """Of ``ROWS`` states that the replay buffer remembers, after ``updates`` of the critics."""
    run = setting(task)
    policy = run.policy.model_copy(update={"backbone": family, "size": FAMILIES[family], "denoise_steps": steps})
    starts = min(updates, 500)
    sizes = {"batch_size": batch, "learning_starts": starts, "decisions_per_iteration": updates + starts}
    rl = run.rl.model_copy(update={"iterations": 1, "sac": run.rl.sac.model_copy(update=sizes)})
    shown = run.sft.model_copy(update={"steps": sft})
    run = run._replace(policy=policy, rl=rl, sft=shown, env=run.env.model_copy(update={"episode_steps": 250}))
    with tempfile.TemporaryDirectory() as folder:
        model, replay = trained(run, seed, Path(folder), lambda *_: 0.0)
    rng = seeds.generator("sac_batch", seed, -1)
    state = torch.from_numpy(replay.draw(rng, ROWS).state)
    normals = torch.from_numpy(rng.standard_normal((ROWS, steps + 1, *model.policy.chunk_shape), "float32"))
    model.critics.eval()

    def loss(states: torch.Tensor, score: Score) -> torch.Tensor:
        action = model.ended(states, score)[0]
        value: torch.Tensor = model.critics(state, action.flatten(1)).min(0).values
        return -value

    return gradient_norms(model.velocity(state), normals, noise_at(rl, 0), model.policy.noise_net, loss).tolist()


def rows(options: argparse.Namespace) -> list[Row]:
    found: list[Row] = []
    for steps in options.steps:
        grown: dict[str, float] = {}
        for family in options.families:
            slopes = norms(options.task, family, steps, options.updates, options.batch, options.sft, options.seed)
            grown[family] = slopes[0] / slopes[-1]
            told = ", ".join(f"{slope:.3g}" for slope in slopes)
            judged = family != "mlp" and "mlp" in grown
            found.append(
                Row(
                    f"SAC Flow, {family}, K = {steps}: norm of −Q's gradient at A^0 … A^{steps - 1}",
                    f"{told}: × {grown[family]:.2f} on the way back",
                    "grows less than mlp's" if judged else "",
                    grown[family] < grown["mlp"] if judged else None,
                    f"{options.task}, {options.sft} steps of SFT, {options.updates} updates of {options.batch}, "
                    f"seed {options.seed}; mean over {ROWS} states",
                )
            )
            print(found[-1].what, found[-1].measured, flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("gradient_norms", __doc__)
    add = parser.add_argument
    add("--task", default="HalfCheetah-v5", help="Gymnasium's id")
    add("--steps", type=int, nargs="+", default=[4, 7, 10], help="denoising steps K")
    add("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="model families")
    add("--updates", type=int, default=3000, help="of the critics, after which it is measured")
    add("--batch", type=int, default=256, help="decisions of an update")
    add("--sft", type=int, default=0, help="steps of SFT on random actions before; 0: none, as in the paper")
    add("--seed", type=int, default=0, help="of the training")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()
