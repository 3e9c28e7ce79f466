"""Workers that Ray places: on a real cluster of several nodes on this machine, whose parts are killed."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pirl_core.envs.vector import cluster
from pirl_core.envs.vector.replay import Take
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.errors import UserError, WorkerDied
from pirl_core.types import Episode
from tests.envs.test_vector_env import TASKS, course, settings

RAY = str(Path(sys.executable).with_name("ray"))
ENV = settings(["corner2"], steps=60)


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIRL_CLUSTER", "rey")
    with pytest.raises(UserError, match="PIRL_CLUSTER = 'rey': must be ray"):
        VectorEnv(ENV, 1)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head without simulators; each test adds what it needs."""
    pytest.importorskip("ray")
    # Where somebody has a token, `ray start` asks for it, and a Cluster does not.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    # Else Ray's workers let everything else go first, and the tests wait for them.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  (Ray's own name)
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    os.environ |= {"RAY_ADDRESS": made.address, "PIRL_CLUSTER": "ray"}
    yield made
    for name in ("RAY_AUTH_MODE", "RAY_worker_niceness", "RAY_ADDRESS", "PIRL_CLUSTER"):
        del os.environ[name]
    made.shutdown()


def test_without_ray_a_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIRL_CLUSTER", "ray")
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"Ray is not installed; pip install 'pirl-core\[ray\]'"):
        VectorEnv(ENV, 1)


@contextmanager
def node(nodes: Any, simulators: int) -> Iterator[None]:
    """Taken away however a test ends, so that the next one finds what it adds alone."""
    added = nodes.add_node(num_cpus=1, resources={"sim": simulators})
    try:
        yield
    finally:
        nodes.remove_node(added)


def process_of(worker: Any) -> int:
    found = re.search(r"process (\d+)", worker.name)
    assert found
    return int(found[1])


def rounds(env: Any, count: int, disturb: Any = None) -> list[np.ndarray]:
    """Three rounds of six episodes, with slots ahead of others; ``disturb(envs, moment)`` before each call."""
    rng = np.random.default_rng(0)
    seen: list[np.ndarray] = []
    moment = iter(range(10**6))
    with VectorEnv(env, 6, count) as envs:
        for number in range(3):
            if disturb:
                disturb(envs, next(moment))
            first = envs.reset(range(6), [Episode(TASKS[row % 2], 10 * number + row) for row in range(6)])
            seen += [first.images, first.state]
            for slots in ([3, 1], [5, 0, 2], range(6), range(6), [4]):
                if disturb:
                    disturb(envs, next(moment))
                result = envs.step(slots, rng.uniform(-1, 1, (len(slots), 5, 4)).astype(np.float32))
                seen += [*result.observation[:2], *result[1:]]
    return seen


def equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.slow
def test_one_two_and_four_nodes_give_what_processes_here_give(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIRL_CLUSTER", "")
    here = course(ENV, 1)
    monkeypatch.setenv("PIRL_CLUSTER", "ray")
    added = []
    for more in (1, 1, 2):
        added += [nodes.add_node(num_cpus=1, resources={"sim": 1}) for _ in range(more)]
        assert equal(here, course(ENV, 5))
    for each in added:
        nodes.remove_node(each)


@pytest.mark.slow
def test_killing_workers_and_nodes_changes_no_number_and_a_new_node_is_used(
    nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIRL_CLUSTER", "")
    here = rounds(ENV, 1)
    monkeypatch.setenv("PIRL_CLUSTER", "ray")
    added = [nodes.add_node(num_cpus=1, resources={"sim": 2}) for _ in range(2)]
    known: set[int] = set()
    most = []

    def disturb(envs: VectorEnv, moment: int) -> None:
        known.update(process_of(worker) for worker in envs._workers.values())
        most.append(len(envs._workers))
        if moment == 8:  # a node with all of its workers, without a word
            nodes.remove_node(added.pop(0), allow_graceful=False)
        elif moment == 9:
            added.append(nodes.add_node(num_cpus=1, resources={"sim": 3}))
        elif moment % 3 == 1:
            os.kill(process_of(envs._workers[min(envs._workers)]), signal.SIGKILL)
        elif moment == 12:
            time.sleep(20)  # those of the new node have joined by the next start

    assert equal(here, rounds(ENV, 6, disturb))
    assert len(known) >= 8
    assert max(most[13:]) >= 4
    for each in added:
        nodes.remove_node(each)


@pytest.mark.slow
@pytest.mark.soak
def test_thirty_kills(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIRL_CLUSTER", "")
    here = rounds(ENV, 1)
    monkeypatch.setenv("PIRL_CLUSTER", "ray")
    added = [nodes.add_node(num_cpus=1, resources={"sim": 2}) for _ in range(4)]
    raylets: list[Any] = []
    workers: set[int] = set()

    def disturb(envs: VectorEnv, moment: int) -> None:
        if moment % 4 == 2:
            raylets.append(added.pop(0))
            nodes.remove_node(raylets[-1], allow_graceful=False)
            added.append(nodes.add_node(num_cpus=1, resources={"sim": 2}))
            return
        for worker in list(envs._workers.values())[:3]:
            with suppress(ProcessLookupError):  # it went with its node
                os.kill(process_of(worker), signal.SIGKILL)
                workers.add(process_of(worker))

    assert equal(here, rounds(ENV, 6, disturb))
    assert len(raylets) >= 4
    assert len(raylets) + len(workers) >= 30
    for each in added:
        nodes.remove_node(each)


@pytest.mark.slow
def test_a_machine_of_many_workers_is_one_loss(nodes: Any) -> None:
    """Its idle ones are no others to go to: four in a row would end the run."""
    pair = [nodes.add_node(num_cpus=1, resources={"sim": 5}) for _ in range(2)]
    with VectorEnv(ENV, 10, 10) as envs:
        envs.reset([0], [Episode("reach-v3", 0)])
        raylet = psutil.Process(process_of(envs._workers[envs._home[0]])).parent()
        assert raylet
        lost = next(each for each in pair if each.all_processes["raylet"][0].process.pid == raylet.pid)
        pair.remove(lost)
        # Its processes would see only after a while that their raylet is gone.
        machine = raylet.children(recursive=True)
        nodes.remove_node(lost, allow_graceful=False)
        for process in machine:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        envs.step([0], np.zeros((1, 2, 4), np.float32))
        assert len(envs._workers) == 5
    nodes.remove_node(pair[0])


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended_and_another_takes_its_place(
    nodes: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "ANSWER_SECONDS", 6)
    with node(nodes, 1), VectorEnv(ENV, 1, 1) as envs:
        envs.reset([0], [Episode("reach-v3", 7)])
        hanging = process_of(envs._workers[0])
        os.kill(hanging, signal.SIGSTOP)
        envs.step([0], np.zeros((1, 2, 4), np.float32))
        assert process_of(envs._workers[1]) != hanging
        with suppress(psutil.NoSuchProcess):
            psutil.Process(hanging).wait(30)
    assert "gave no answer for 6 s while it ran reach-v3 from seed 7; others go on" in capfd.readouterr().err


@pytest.mark.slow
def test_a_run_waits_while_another_has_all_simulators(
    nodes: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "JOIN_SECONDS", 15)
    with node(nodes, 2), VectorEnv(ENV, 2, 2) as first:
        # Longer than a run waits for machines that do not come.
        ending = threading.Timer(30, first.close)
        ending.start()
        with VectorEnv(ENV, 2, 2) as second:
            second.reset([0], [Episode("reach-v3", 0)])
        assert not ending.is_alive()
    assert "waiting for others, who hold all 2 of the resource sim" in capfd.readouterr().err


@pytest.mark.slow
def test_a_cluster_of_its_own(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address, whatever else runs here; PIRL_WORKERS limits it."""
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("PIRL_WORKERS", "1")
    with VectorEnv(ENV, 2) as envs:
        envs.reset([0, 1], [Episode("reach-v3", 0), Episode("reach-v3", 1)])
        assert len(envs._workers) == 1


@pytest.mark.slow
def test_films_survive_too(nodes: Any) -> None:
    takes = [Take(Episode(task, 0), np.full((12, 4), 0.1, np.float32)) for _ in range(3) for task in TASKS]
    with node(nodes, 2), VectorEnv(ENV, 2, 2) as envs:
        films = envs.film(takes, 32, 4)
        found = dict([next(films)])
        os.kill(process_of(envs._workers[max(envs._workers)]), signal.SIGKILL)
        found |= dict(films)
    assert sorted(found) == list(range(6))
    assert all(np.array_equal(found[number].frames, found[number % 2].frames) for number in range(6))


@pytest.mark.slow
def test_an_episode_that_ends_every_worker_is_named(nodes: Any) -> None:
    with node(nodes, 1), VectorEnv(ENV, 1, 1) as envs:
        envs.reset([0], [Episode("reach-v3", 0)])
        receive = envs._receive

        def and_die(number: int) -> Any:
            if number in envs._home.values():
                os.kill(process_of(envs._workers[number]), signal.SIGKILL)
            return receive(number)

        envs._receive = and_die  # type: ignore[method-assign]
        with pytest.raises(WorkerDied, match="while it ran reach-v3 from seed 0, the 4th in a row"):
            envs.step([0], np.zeros((1, 50, 4), np.float32))
        assert not envs._workers


@pytest.mark.slow
@pytest.mark.soak
def test_the_head_may_die_and_come_back(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    begin = [RAY, "start", "--head", "--port", port, "--num-cpus", "1", "--resources", '{"sim": 2}',
             "--include-dashboard", "false"]  # fmt: skip
    monkeypatch.setenv("PIRL_CLUSTER", "")
    here = rounds(ENV, 1)
    monkeypatch.setenv("PIRL_CLUSTER", "ray")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    subprocess.run(begin, check=True, capture_output=True)

    def disturb(_: VectorEnv, moment: int) -> None:
        if moment == 9:
            end_head(port)
            subprocess.run(begin, check=True, capture_output=True)

    try:
        assert equal(here, rounds(ENV, 2, disturb))
    finally:
        end_head(port)


def end_head(port: str) -> None:
    for name in ("gcs_server", "raylet"):
        for process in psutil.process_iter(["name", "cmdline"]):
            if process.info["name"] == name and any(port in word for word in process.info["cmdline"]):
                process.kill()


@pytest.mark.slow
def test_another_version_and_no_machine_are_told_in_a_line(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "JOIN_SECONDS", 8)
    with pytest.raises(UserError, match=r"no machine has the resource sim\).* ray start --resources="):
        VectorEnv(ENV, 1, 1)
    monkeypatch.setattr(cluster, "JOIN_SECONDS", 100)
    for ours, said in (
        ({"mujoco": "1.2.3"}, r"mujoco 3\.3\.0, where others have 1\.2\.3; install the same"),
        ({"snow": "1.0"}, r"snow missing, where others have 1\.0; install the same"),
    ):
        monkeypatch.setattr(cluster, "world_of", lambda *_, ours=ours: ours)
        with node(nodes, 1), pytest.raises(UserError, match=rf"worker on .*: {said}"):
            VectorEnv(ENV, 1, 1)
