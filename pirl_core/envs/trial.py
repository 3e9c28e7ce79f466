"""Whether a benchmark runs here: ``python -m pirl_core.envs.trial metaworld`` opens it, plays a step and draws."""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from pirl_core import console
from pirl_core.envs import assets
from pirl_core.envs.contract import Settings
from pirl_core.envs.drawing import opengl
from pirl_core.envs.opening import open_simulator
from pirl_core.errors import UserError
from pirl_core.facts import facts_in, facts_of
from pirl_core.types import Episode

SIZE = 64


def tried(benchmark: str) -> str:
    """What it played and drew, in words. Downloads nothing.

    Raises UserError where package, assets or a library for drawing are missing, LookupError for an unknown name.
    """
    facts = facts_of(benchmark)
    if facts.assets and (lacking := assets.missing(facts.assets)):
        raise UserError(
            f"{len(lacking)} assets are missing, first {lacking[0]}; run python -m pirl_core.envs.assets fetch "
            f"{facts.assets}"
        )
    task = next(iter(facts.tasks))
    settings = Settings(
        benchmark=benchmark,
        episode_steps=8,
        cameras=list(facts.cameras[:1]),
        image_size=SIZE,
        fast_render=True,
        object_state=False,
        sim_backend="cpu",
        tasks=[task],
    )
    simulator = open_simulator(settings, Episode(task, 0))
    try:
        simulator.reset(Episode(task, 0))
        simulator.step(np.zeros(len(facts_in(settings).action), np.float32))
        drawn = simulator.images()
    finally:
        simulator.close()
    seen = "a picture" if drawn.any() else "a black picture"
    return f"{task}: a step and {seen}"


def main(argv: Sequence[str] | None = None) -> int:
    console.speak()
    parser = argparse.ArgumentParser(prog="python -m pirl_core.envs.trial", description="Try whether a benchmark runs.")
    parser.add_argument("benchmark", help="its name, as env.benchmark in params.yaml")
    args = parser.parse_args(argv)
    opengl.prefer()
    try:
        print(tried(args.benchmark))
    except (UserError, LookupError) as error:
        return console.refuse("trial", str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
