"""The vector environment: worker processes must not change results, and must not outlive or hang their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pirl_core.envs.vector.processes import worker_count
from pirl_core.envs.vector.replay import Take
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.errors import UserError, WorkerDied
from pirl_core.params.sections import Env
from pirl_core.types import Episode
from tests import ROOT

TASKS = ["reach-v3", "drawer-open-v3"]


def settings(cameras: list[Any], steps: int = 12) -> Env:
    return Env(
        benchmark="metaworld",
        shift="none",
        tasks=TASKS,
        episode_steps=steps,
        cameras=cameras,
        image_size=32,
        fast_render=True,
        object_state=not cameras,
        keys={},
        frame_stack=1,
        sim_backend="cpu",
    )


def processes_of(envs: VectorEnv) -> list[subprocess.Popen[bytes]]:
    return [worker.process for worker in envs._workers.values() if worker.process]


def course(env: Env, workers: int) -> list[np.ndarray]:
    """Two rounds of episodes over 5 slots: other tasks and orders in the second, some slots ahead of others."""
    rng = np.random.default_rng(0)
    seen: list[np.ndarray] = []
    with VectorEnv(env, 5, workers) as envs:
        for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
            first = envs.reset(order, [Episode(TASKS[(row // 2) % 2], row) for row in range(5)])
            seen += [first.images, first.state]
            for slots in ([3, 1], order):
                result = envs.step(slots, rng.uniform(-1, 1, (len(slots), 5, 4)).astype(np.float32))
                seen += [*result.observation[:2], *result[1:]]
    return seen


def test_results_do_not_depend_on_the_number_of_workers() -> None:
    env = settings(["corner2", "gripperPOV"])
    one, two = course(env, 1), course(env, 2)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert one[0].shape == (5, 2, 32, 32, 3)
    assert one[0].dtype == np.uint8
    assert one[1].dtype == np.float32


def test_chunk_stops_at_the_time_limit_and_without_cameras_there_are_no_pixels() -> None:
    with VectorEnv(settings([]), 2, 1) as envs:
        first = envs.reset([1, 0], [Episode("reach-v3", 5), Episode("drawer-open-v3", 5)])
        assert first.images.shape == (2, 0, 32, 32, 3)
        assert first.state.shape == (2, 39)
        assert first.instructions == ["move the hand to the red goal", "pull the drawer open"]
        idle = np.zeros((2, 8, 4), np.float32)
        result = envs.step([1, 0], idle)
        assert result.steps.tolist() == [8, 8]
        assert not result.truncated.any()
        result = envs.step([1, 0], idle)
        assert result.steps.tolist() == [4, 4]
        assert result.truncated.all()
        assert not result.terminated.any()
        assert result.reward.tolist() == [0.0, 0.0]


def test_chunk_stops_at_success_with_one_reward_and_no_picture() -> None:
    env = settings(["corner2"], steps=100).model_copy(update={"object_state": True})
    with VectorEnv(env, 1, 1) as envs:
        observation = envs.reset([0], [Episode("reach-v3", 0)])
        for _ in range(25):
            hand, goal = observation.state[0, :3], observation.state[0, 36:]
            action = np.append(np.clip(10 * (goal - hand), -1, 1), 0).astype(np.float32)
            result = envs.step([0], np.tile(action, (1, 9, 1)))
            observation = result.observation
            if result.terminated[0]:
                break
            assert result.reward[0] == 0.0
            assert observation.images.any()
        assert result.terminated[0]
        assert not result.truncated[0]
        assert result.reward[0] == 1.0
        assert 1 <= result.steps[0] < 9
        assert not observation.images.any()


def test_dead_worker_is_named_and_the_others_are_closed() -> None:
    with VectorEnv(settings([]), 2, 2) as envs:
        envs.reset([0, 1], [Episode("reach-v3", 0), Episode("drawer-open-v3", 0)])
        processes = processes_of(envs)
        processes[1].kill()
        with pytest.raises(WorkerDied, match="worker 1 was killed by SIGKILL while it ran drawer-open-v3"):
            envs.step([0, 1], np.zeros((2, 1, 4), np.float32))
        assert all(process.poll() is not None for process in processes)


def test_a_worker_lost_while_it_films_is_told() -> None:
    takes = [Take(Episode(task, 0), np.zeros((12, 4), np.float32)) for _ in range(3) for task in TASKS]
    with VectorEnv(settings(["corner2"]), 2, 2) as envs:
        films = envs.film(takes, 32, 4)
        next(films)
        processes_of(envs)[1].kill()
        with pytest.raises(WorkerDied, match="worker 1 was killed by SIGKILL while it ran drawer-open-v3"):
            list(films)


def test_films_end_what_runs_and_their_errors_reach_the_caller() -> None:
    with VectorEnv(settings(["corner2"]), 1, 1) as envs:
        envs.reset([0], [Episode("reach-v3", 0)])
        assert list(envs.film([], 32, 4)) == []
        with pytest.raises(UserError, match="none, visual or position"):
            list(envs.film([Take(Episode("reach-v3", 0, "moon"), np.zeros((1, 4), np.float32))], 32, 4))
        with pytest.raises((ValueError, RuntimeError), match="reset"):
            envs.step([0], np.zeros((1, 1, 4), np.float32))
        assert envs.reset([0], [Episode("reach-v3", 0)]).images.any()


def test_simulator_errors_reach_the_caller_with_their_text() -> None:
    with VectorEnv(settings([], steps=1), 1, 1) as envs:
        envs.reset([0], [Episode("reach-v3", 0)])
        envs.step([0], np.zeros((1, 1, 4), np.float32))
        with pytest.raises(RuntimeError, match="step after the episode's end"):
            envs.step([0], np.zeros((1, 1, 4), np.float32))
        with pytest.raises(UserError, match="none, visual or position"):
            envs.reset([0], [Episode("reach-v3", 0, "moon")])
        envs.reset([0], [Episode("reach-v3", 0)])
        with pytest.raises(UserError, match="reach-v3"):
            envs.reset([0], [Episode("raech-v3", 0)])


def test_worker_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIRL_WORKERS", "3")
    assert (worker_count(2), worker_count(8)) == (2, 3)
    monkeypatch.setenv("PIRL_WORKERS", "many")
    with pytest.raises(UserError, match="PIRL_WORKERS = 'many'"):
        worker_count(2)


@pytest.mark.parametrize(
    ("name", "value"),
    [("MUJOCO_GL", "wgl"), *(("MUJOCO_EGL_DEVICE_ID", value) for value in ("99", "-1", "first", "")),
     ("PYOPENGL_PLATFORM", "glx")],
)  # fmt: skip
def test_bad_opengl_setting_is_a_user_error(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the variable; nothing has to be installed."""
    if name == "MUJOCO_EGL_DEVICE_ID" and os.environ["MUJOCO_GL"] != "egl":
        pytest.skip("only EGL numbers its devices")
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{name}={value}[:, ](?!.*apt-get)"):
        VectorEnv(settings(["corner2"]), 1, 1).reset([0], [Episode("reach-v3", 0)])


def test_workers_end_with_their_parent_and_import_no_torch() -> None:
    program = """
import sys, time
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.params.sections import Env
from pirl_core.types import Episode
env = Env(benchmark="metaworld", shift="none", tasks=["reach-v3"], episode_steps=5,
    cameras=["corner2"], image_size=32, fast_render=True, object_state=False, keys={}, frame_stack=1, sim_backend="cpu")
envs = VectorEnv(env, 1, 1)
envs.reset([0], [Episode("reach-v3", 0)])
print(envs._workers[0].process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert "torch" not in Path(f"/proc/{worker}/maps").read_text()
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{worker}").exists() and "Z" not in _state(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists() or "Z" in _state(worker)


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def test_interrupt_leaves_no_worker_behind() -> None:
    processes = []
    try:
        with VectorEnv(settings([]), 2, 2) as envs:
            processes = processes_of(envs)
            for process in processes:
                os.kill(process.pid, signal.SIGINT)  # what Ctrl-C sends to the whole group
            envs.reset([0, 1], [Episode("reach-v3", 0), Episode("reach-v3", 1)])
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    # They answered after the signal, and were ended by their parent.
    assert [process.returncode for process in processes] == [-signal.SIGKILL, -signal.SIGKILL]


def test_simulators_that_are_given_up_free_their_memory() -> None:
    """Slots that change tasks drop simulators of 20 MB; without a clean break the process grew by gigabytes."""
    tasks = ["faucet-open-v3", "handle-press-v3", "plate-slide-v3"]
    memory = []
    with VectorEnv(settings([]), 8, 1) as envs:
        worker = psutil.Process(processes_of(envs)[0].pid)
        for round_ in range(12):
            envs.reset(range(8), [Episode(tasks[round_ % 3], round_) for _ in range(8)])
            memory.append(worker.memory_info().rss / 2**20)
    assert memory[-1] - memory[4] < 60, memory


def test_workers_share_every_task_evenly() -> None:
    """A call lasts as long as its slowest worker, and tasks differ in cost."""
    with VectorEnv(settings([], steps=1), 8, 2) as envs:
        for order in (TASKS, TASKS[::-1]):
            envs.reset(range(8), [Episode(order[slot % 2], slot) for slot in range(8)])
            homes = [[envs._home[slot] for slot in range(8) if order[slot % 2] == task] for task in TASKS]
            assert [sorted(home) for home in homes] == [[0, 0, 1, 1], [0, 0, 1, 1]]
            envs.step(range(8), np.zeros((8, 1, 4), np.float32))
        with pytest.raises(RuntimeError, match="step after the episode's end"):
            envs.step([0], np.zeros((1, 1, 4), np.float32))
