"""Opens it; what is heavy is imported then."""

from pirl_core.envs.contract import Settings, Simulator
from pirl_core.envs.drawing import opengl
from pirl_core.types import Episode


def simulator(settings: Settings, episode: Episode) -> Simulator:
    if settings.cameras:
        opengl.prefer()  # MuJoCo reads the variable when it is imported
    from pirl_core.envs.gymnasium.simulator import GymnasiumEnv

    return GymnasiumEnv(episode.task, settings)
