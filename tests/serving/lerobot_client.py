"""LeRobot's own robot client around a robot that stands still, for a Python that has lerobot; prints what it executed.

python lerobot_client.py PORT SEEN.npz ACTIONS
"""

import json
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from lerobot.async_inference import robot_client
from lerobot.async_inference.configs import RobotClientConfig
from lerobot.robots import Robot, RobotConfig

port, seen, count = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3])
MOTORS = [f"{letter}.pos" for letter in "abcd"]
MOVED = ("dx", "dy", "grip")


@RobotConfig.register_subclass("still")
@dataclass
class StillConfig(RobotConfig):
    pass


class Still(Robot):
    config_class = StillConfig
    name = "still"
    is_connected = True
    is_calibrated = True

    def __init__(self, config: StillConfig) -> None:
        super().__init__(config)
        self.executed: list[list[float]] = []

    @property
    def observation_features(self) -> dict[str, Any]:
        cameras = {name: seen[name].shape for name in ("agentview", "eye_in_hand")}
        return dict.fromkeys(MOTORS, float) | cameras

    @property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(MOVED, float)

    def connect(self, calibrate: bool = True) -> None: ...

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...

    def disconnect(self) -> None: ...

    def get_observation(self) -> dict[str, Any]:
        numbers = dict(zip(MOTORS, seen["state"].tolist(), strict=True))
        return numbers | {name: seen[name] for name in ("agentview", "eye_in_hand")}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        self.executed.append([action[name] for name in MOVED])
        return action


robot_client.make_robot_from_config = Still
client = robot_client.RobotClient(
    RobotClientConfig(
        policy_type="pi0", pretrained_name_or_path="served", robot=StillConfig(), actions_per_chunk=4, fps=100,
        server_address=f"127.0.0.1:{port}", chunk_size_threshold=0.0, aggregate_fn_name="latest_only",
    )
)  # fmt: skip
assert client.start()
threading.Thread(target=client.receive_actions, daemon=True).start()
threading.Thread(target=client.control_loop, args=(str(seen["task"]),), daemon=True).start()
end = time.monotonic() + 60
while len(client.robot.executed) < count and time.monotonic() < end:
    time.sleep(0.01)
print(json.dumps(client.robot.executed[:count]), flush=True)
client.stop()
# Its threads still wait on the closed channel; an interpreter that ends under them may abort.
os._exit(0)
