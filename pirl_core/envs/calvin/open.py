"""Opens it; what is heavy is imported then."""

from pirl_core.envs.contract import Expert, Settings, Simulator
from pirl_core.types import Episode


def simulator(settings: Settings, episode: Episode) -> Simulator:
    from pirl_core.envs.calvin.simulator import CalvinEnv

    return CalvinEnv(episode.task.split("/")[0], settings)


def expert() -> Expert:
    from pirl_core.envs.calvin.expert import show

    return show
