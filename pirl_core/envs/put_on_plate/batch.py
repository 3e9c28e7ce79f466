"""Put-on-plate on a GPU: many tables in one PhysX simulation, each with every object and plate there is.

A scene cannot be rebuilt while others run, so what an episode does not need lies out of the way, as in the public
environment (RL4VLA, Liu et al. 2025). Axes: N rows, n of them in a call, C cameras, H W pixels, S state numbers, T
bodies.
"""

from typing import Any

import numpy as np

from pirl_core.envs import widowx
from pirl_core.envs.contract import Settings
from pirl_core.envs.drawing import vulkan
from pirl_core.envs.put_on_plate import assets, overlay
from pirl_core.envs.put_on_plate.facts import FACTS
from pirl_core.envs.put_on_plate.names import OBJECTS, PLATES
from pirl_core.envs.put_on_plate.play import START, Play
from pirl_core.envs.put_on_plate.rules import Contact
from pirl_core.envs.put_on_plate.scene import TableScene, thing
from pirl_core.types import Episode

_KINDS: dict[assets.Kind, int] = {"carrot": len(OBJECTS), "plate": len(PLATES)}
BODIES = [(kind, number) for kind, count in _KINDS.items() for number in range(count)]


class PutOnPlateBatch:
    """A ``benchmarks.Batch`` for every task and shift."""

    def __init__(self, settings: Settings, num_envs: int, device: str) -> None:
        """device: "cuda:0" and so on, or "cpu", which has room for one row.

        Raises UserError where package or assets are missing.
        """
        self._settings = settings
        self._state_dim = FACTS.state_dim(settings.object_state)
        self._plays: dict[int, Play] = {}
        widowx.use_assets()
        things = [thing(*body) for body in BODIES]
        fast = settings.fast_render
        self._scene = vulkan.opened(
            lambda render: TableScene(things, render, f"physx_{device}", num_envs, fast), device
        )

    def fits(self, episode: Episode) -> bool:
        return episode.task in FACTS.tasks

    def reset(self, rows: np.ndarray, episodes: list[Episode]) -> None:
        poses = np.repeat(_parked()[:, None], len(rows), 1)
        joints = np.tile(START, (len(rows), 1))
        for index, (row, episode) in enumerate(zip(rows, episodes, strict=True)):
            play = self._plays[int(row)] = Play(episode, self._settings.episode_steps)
            for body, placed in zip(play.bodies, play.places, strict=True):
                poses[BODIES.index(body), index] = placed.numbers()
            joints[index] = play.joints
        self._scene.restart(rows, poses, joints)

    def step(self, rows: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        everyone = np.zeros((self._scene.num_envs, actions.shape[1]), np.float32)
        everyone[rows] = actions
        widowx.advance(self._scene, everyone)
        jumps: dict[Any, dict[int, np.ndarray]] = {}
        for row in rows:
            play = self._plays[row]
            if (jump := play.advance()) is not None:
                jumps.setdefault(self._body(play, 0), {})[row] = jump.numbers()
        for body, places in jumps.items():
            self._scene.move(body, list(places), np.stack(list(places.values())))
        if not np.isfinite(self.state(rows)).all():
            raise RuntimeError("put-on-plate: the simulation diverged")
        judged = [self._plays[row].judge(contact) for row, contact in zip(rows, self._contacts(rows), strict=True)]
        reward, placed, truncated = map(np.array, zip(*judged, strict=True))
        return reward, placed, truncated

    def state(self, rows: np.ndarray) -> np.ndarray:
        robot = widowx.robot_numbers(self._scene)
        bodies = [self._poses(rows, which) for which in (0, 1)]
        numbers: np.ndarray = np.concatenate([robot[rows], *bodies], 1)[:, : self._state_dim].astype(np.float32)
        return numbers

    def instructions(self, rows: np.ndarray) -> list[str]:
        return [self._plays[row].instruction() for row in rows]

    def images(self, rows: np.ndarray) -> np.ndarray:
        size = self._settings.image_size
        pictures = np.zeros((len(rows), len(self._settings.cameras), size, size, 3), np.uint8)
        if self._settings.cameras:
            vulkan.check(self._scene.scene)
            rendered, bodies = widowx.drawn(self._scene)
            numbers = {body.name: number for number, body in self._scene.segmentation_id_map.items()}
            things = {body.name for body in self._scene.bodies}
            robot = [number for name, number in numbers.items() if name not in things and name != "arena"]
            for index, row in enumerate(rows):
                play = self._plays[row]
                lying = [numbers[self._body(play, which).name] for which in range(len(play.bodies))]
                shown = np.isin(bodies[row], robot + lying)
                pictures[index] = overlay.square(play.picture(rendered[row], shown), size)
        return pictures

    def close(self) -> None:
        self._scene.close()

    def _body(self, play: Play, which: int) -> Any:
        return self._scene.bodies[BODIES.index(play.bodies[which])]

    def _poses(self, rows: np.ndarray, which: int) -> np.ndarray:
        """Of the object (0) or the plate (1) of each row (n, 7)."""
        bodies = [self._body(self._plays[row], which) for row in rows]
        poses = {body: body.pose.raw_pose.cpu().numpy() for body in set(bodies)}
        return np.stack([poses[body][row] for row, body in zip(rows, bodies, strict=True)])

    def _contacts(self, rows: np.ndarray) -> list[Contact]:
        """One query of the simulator for each object, and for each object on a plate, that some row plays with."""
        scene = self._scene
        pairs = [tuple(self._body(self._plays[row], which) for which in (0, 1)) for row in rows]
        forces = {pair: scene.scene.get_pairwise_contact_forces(*pair).cpu().numpy() for pair in set(pairs)}
        held = {body: scene.agent.is_grasping(body).cpu().numpy() for body in {pair[0] for pair in pairs}}
        places = zip(self._poses(rows, 0), self._poses(rows, 1), strict=True)
        return [
            Contact(body[:3], plate[:3], float(np.linalg.norm(forces[pair][row])), bool(held[pair[0]][row]))
            for row, pair, (body, plate) in zip(rows, pairs, places, strict=True)
        ]


def _parked() -> np.ndarray:
    """Poses (T, 7) far below the table, apart from one another; from there they fall."""
    count = np.arange(len(BODIES))
    poses = np.zeros((len(BODIES), 7))
    poses[:, 0], poses[:, 1], poses[:, 2], poses[:, 3] = count % 7 - 3.0, count // 7 - 3.0, -5.0, 1.0
    return poses
