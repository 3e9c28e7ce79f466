"""mani_skill for the benchmarks on it: imported without questions; its environments draw where there is a Vulkan."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from pirl_core.envs import assets
from pirl_core.errors import UserError, first_line

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


NO_GPU_VULKAN = (
    "the GPU has no Vulkan to draw with; install its driver's graphics libraries (in a container set"
    " NVIDIA_DRIVER_CAPABILITIES=all), or set env.sim_backend to cpu"
)


def opened(make: Callable[[str], Any], device: str = "cpu") -> Any:
    """What ``make`` builds with the render backend that it is given: a blind one where there is no Vulkan."""
    try:
        return make(f"sapien_{device}")
    except RuntimeError as error:
        if "physical device" not in str(error) and "vk::" not in str(error):
            raise
        return make("none")


def check(scene: Any) -> None:
    """Raises UserError where the mani_skill scene is blind."""
    if not scene.can_render():
        raise UserError(NO_GPU_VULKAN if scene.gpu_sim_enabled else NO_VULKAN)


def apply_state(env: Any) -> None:
    """Hand what was set in mani_skill's tensors to the simulation on the GPU; on a CPU it is there already."""
    if env.gpu_sim_enabled:
        env.scene._gpu_apply_all()
        env.scene.px.gpu_update_articulation_kinematics()
        env.scene._gpu_fetch_all()


def gpu() -> str:
    """The CUDA device of this rank, by torch's name, with PhysX ready for GPUs.

    Raises UserError where there is no such device, or PhysX cannot be had.
    """
    import sapien
    import torch

    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= torch.cuda.device_count():
        raise UserError(
            f"env.sim_backend = gpu: no CUDA device {number} was found; set it to cpu, or install the torch build for"
            " your GPU"
        )
    library = Path.home() / ".sapien/physx"
    # At first use sapien downloads PhysX's library for GPUs; ranks would read what another one is still writing.
    with assets.alone(library):
        try:
            sapien.physx.enable_gpu()
        except (OSError, RuntimeError, BadZipFile) as error:
            raise UserError(
                f"env.sim_backend = gpu: PhysX does not start there ({first_line(error)}); it needs libcuda.so, and at"
                f" first use a download: remove {library} and try again where there is network, or set cpu"
            ) from None
    return f"cuda:{number}"
