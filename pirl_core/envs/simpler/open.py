"""Opens it; what is heavy is imported then."""

from pirl_core.envs.contract import Expert, Settings, Simulator
from pirl_core.types import Episode


def simulator(settings: Settings, episode: Episode) -> Simulator:
    from pirl_core.envs.drawing import vulkan  # noqa: F401  (raises where mani_skill is missing)
    from pirl_core.envs.simpler.simulator import SimplerEnv

    return SimplerEnv(episode.task, settings)


def expert() -> Expert:
    from pirl_core.envs.simpler.expert import show

    return show
