"""mani_skill for the benchmarks on it: imported without questions; its environments draw where there is a Vulkan."""

import logging
import os
from collections.abc import Callable
from typing import Any

from pirl_core.errors import UserError

# Else mani_skill asks on the terminal before it downloads.
os.environ["MS_SKIP_ASSET_DOWNLOAD_PROMPT"] = "1"
try:
    import mani_skill.envs  # noqa: F401  (registers the tasks)
except ImportError as error:
    raise UserError(f"mani_skill cannot be imported ({error}); run make setup EXTRAS=maniskill") from None

# It warns of every robot it builds; the space belongs to its name.
logging.getLogger("mani_skill ").setLevel(logging.ERROR)

NO_VULKAN = (
    "no Vulkan to draw with; run make setup EXTRAS=maniskill, or install libvulkan1 and mesa-vulkan-drivers 24.3 or"
    " later"
)


def opened(make: Callable[[str], Any], device: str = "cpu") -> Any:
    """What ``make`` builds with the render backend that it is given: a blind one where there is no Vulkan."""
    try:
        return make(f"sapien_{device}")
    except RuntimeError as error:
        if "physical device" not in str(error):
            raise
        return make("none")


def check(scene: Any) -> None:
    """Raises UserError where the mani_skill scene is blind."""
    if not scene.can_render():
        raise UserError(NO_VULKAN)


def gpu() -> str:
    """The CUDA device of this rank, by torch's name. Raises UserError where there is none."""
    import torch

    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= torch.cuda.device_count():
        raise UserError(
            f"env.sim_backend = gpu: no CUDA device {number} was found; set it to cpu, or install the torch build for"
            " your GPU"
        )
    return f"cuda:{number}"
