"""Opens it; what is heavy is imported then."""

from pirl_core.envs.contract import Batch, Expert, Settings, Simulator
from pirl_core.types import Episode


def simulator(settings: Settings, episode: Episode) -> Simulator:
    from pirl_core.envs.drawing import vulkan  # noqa: F401  (raises where mani_skill is missing)
    from pirl_core.envs.maniskill.simulator import ManiSkillEnv

    return ManiSkillEnv(episode.task, settings)


def batch(settings: Settings, episode: Episode, num_envs: int) -> Batch:
    from pirl_core.envs.drawing import vulkan
    from pirl_core.envs.maniskill.batch import ManiSkillBatch

    return ManiSkillBatch(episode.task, settings, num_envs, vulkan.gpu())


def expert() -> Expert:
    from pirl_core.envs.maniskill.expert import show

    return show
