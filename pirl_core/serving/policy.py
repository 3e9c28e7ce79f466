"""A policy outside of the pipeline: an observation in simulator units in, actions in simulator units out.

Axes: C cameras, H W pixels, S state numbers, R actions of a chunk, A action numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from pirl_core.checkpoints.exported import is_exported, load_exported
from pirl_core.evaluation.players import Player, deterministic, ready
from pirl_core.policy import folder as folders
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.policy.interface import Interface, numbered
from pirl_core.types import Observation

LONGEST = 10_000
"""Characters of an instruction."""
LARGEST = 4096
"""Pixels of an image's side."""


@dataclass(frozen=True)
class Policy:
    """interface: names of the cameras and numbers it reads and moves. player: what the evaluation plays with."""

    flow: FlowPolicy
    interface: Interface
    player: Player

    def predict(
        self,
        images: Mapping[str, np.ndarray],
        state: ArrayLike,
        instruction: str,
        seed: int = 0,
        decision: int = 0,
    ) -> np.ndarray:
        """The next R actions, (R, A) float32, in simulator units.

        images: of each of ``interface.cameras`` (H, W, 3) uint8, upright. state: (S,) numbers in simulator units, in
        the order of ``interface.state``. seed, decision: fix the start noise as the seed of an episode and the number
        of its chunk do in an evaluation, so that equal observations get equal actions; any whole numbers.
        Raises ValueError for an observation that the policy cannot read, and says why.
        """
        observation = observation_of(self.interface, images, state, instruction)
        actions: np.ndarray = self.player(observation, [(seed, decision)])[0]
        return actions


def load_policy(folder: Path | str) -> Policy:
    """Of a policy folder, or of an export of a small policy. Computes on a GPU where torch sees one.

    Raises UserError for a folder that is not whole.
    """
    path = Path(folder)
    flow = ready(load_exported(path) if is_exported(path) else folders.load_policy(path))
    return Policy(flow, flow.interface or unnamed(flow), deterministic(flow))


def unnamed(flow: FlowPolicy) -> Interface:
    """For a policy folder without names: camera0, state0, action0 and so on."""
    cameras, state, action = flow.backbone.shape.cameras, len(flow.state_center), len(flow.action_center)
    names = numbered((), "camera", cameras), numbered((), "state", state), numbered((), "action", action)
    return Interface("", *names, None, [])


def observation_of(
    interface: Interface, images: Mapping[str, np.ndarray], state: ArrayLike, instruction: str
) -> Observation:
    """One row, checked; see ``Policy.predict``. An image may be (3, H, W) too.

    Raises ValueError that names what is wrong.
    """
    frames = [_frame(images, camera) for camera in interface.cameras]
    if len({frame.shape for frame in frames}) > 1:
        sizes = ", ".join(f"{name} {frame.shape[:2]}" for name, frame in zip(interface.cameras, frames, strict=True))
        raise ValueError(f"images of different sizes ({sizes}); resize them to one")
    if not isinstance(instruction, str) or len(instruction) > LONGEST:
        raise ValueError(f"instruction: a text of at most {LONGEST} characters is needed, not {instruction!r:.60}")
    pictures = np.stack(frames) if frames else np.zeros((0, 1, 1, 3), np.uint8)
    return Observation(pictures[None], _numbers(state, interface.state)[None], [instruction])


def _frame(images: Mapping[str, np.ndarray], camera: str) -> np.ndarray:
    if camera not in images:
        raise ValueError(f"no image of camera {camera}; there are {', '.join(map(str, images)) or 'none'}")
    frame = images[camera]
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        kind = frame.dtype if isinstance(frame, np.ndarray) else type(frame).__name__
        raise ValueError(f"image of camera {camera}: an array of uint8 is needed, not {kind}")
    if frame.ndim == 3 and frame.shape[2] != 3 and frame.shape[0] == 3:
        frame = frame.transpose(1, 2, 0)
    if frame.ndim != 3 or frame.shape[2] != 3 or not 0 < min(frame.shape) <= max(frame.shape) <= LARGEST:
        raise ValueError(f"image of camera {camera}: shape {frame.shape} is not (H, W, 3), sides of 1 to {LARGEST}")
    # Convolutions of another layout in memory round otherwise.
    return np.ascontiguousarray(frame)


def _numbers(state: ArrayLike, names: list[str]) -> np.ndarray:
    try:
        # What overflows is infinite, and told below.
        with np.errstate(over="ignore"):
            values = np.asarray(state, np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"state: numbers are needed, not {state!r:.60}") from None
    if values.shape != (len(names),):
        raise ValueError(f"state: shape {values.shape}, the policy reads {len(names)} numbers: {', '.join(names)}")
    if not np.isfinite(values).all():
        raise ValueError(f"state: {names[int(np.flatnonzero(~np.isfinite(values))[0])]} is not finite")
    return values
