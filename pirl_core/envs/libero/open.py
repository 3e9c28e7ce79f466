"""Opens it; what is heavy is imported then."""

from pirl_core.envs.contract import Expert, Settings, Simulator
from pirl_core.envs.drawing import opengl
from pirl_core.types import Episode


def simulator(settings: Settings, episode: Episode) -> Simulator:
    if settings.cameras:
        opengl.chosen()  # before mujoco is imported, which reads the variable and raises
    from pirl_core.envs.libero.simulator import LiberoEnv

    return LiberoEnv(episode.task, settings)


def expert() -> Expert:
    from pirl_core.envs.libero.expert import show

    return show
