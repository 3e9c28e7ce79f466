"""``pirl evaluate --server``: what it makes of a policy that is served, by us and by others."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from websockets.sync.server import Server, ServerConnection, serve

from pirl_core.commands import cli
from pirl_core.params.preset import preset_values
from pirl_core.policy.folder import save_policy
from pirl_core.policy.interface import Interface
from pirl_core.policy.normalize import Affine
from pirl_core.serving import openpi, packing, vla_eval, websocket
from pirl_core.serving.policy import Policy
from pirl_core.stages import evaluate
from pirl_core.stages.cli import stage_main
from tests.evaluation.test_evaluate import random_policy
from tests.serving.running import policy_of, running

NAMES = ["x", "y", "z", "gripper"]
METAWORLD = Interface(
    "metaworld", ["corner2"], [*NAMES, *(f"object{n}" for n in range(35))], ["dx", "dy", "dz", "grip"], 80, []
)
WIRES: dict[str, Any] = {"openpi": openpi, "vla_eval": vla_eval}
Answer = Callable[[dict[Any, Any]], Any]


@pytest.fixture
def policy() -> Policy:
    torch.set_num_threads(1)
    flow = random_policy()
    flow.interface = METAWORLD
    # As the folder keeps it.
    centre = flow.action_center.tolist()
    flow.normalization = flow.normalization._replace(action=Affine(centre, flow.normalization.action.scale))
    return policy_of(flow)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a protocol of a few short episodes."""
    content = preset_values("smoke")
    content["env"].update(
        cameras=["corner2"], tasks=["reach-v3", "handle-press-v3"], object_state=True, episode_steps=23, image_size=32
    )
    split = {"tasks": None, "shift": "none", "episodes_per_task": 3}
    splits = {"id": split, "ood_visual": {**split, "shift": "visual"}}
    content["evaluate"].update(num_envs=1, splits=splits, exploring_episodes_per_task=0, videos_per_outcome=1)
    content["evaluate"]["record"] = "none"
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(content))
    for name in ("PIRL_THREADS", "PIRL_WORKERS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    return tmp_path


def evaluated(port: int, *words: str) -> int:
    return cli.main(["evaluate", "--server", f"ws://127.0.0.1:{port}", "--timeout", "20", *words])


def files(name: str) -> dict[str, bytes]:
    folder = Path("outputs/evaluate") / name
    return {path.name: path.read_bytes() for path in (folder / "videos").iterdir()}


def test_a_served_policy_plays_the_evaluation_s_episodes(policy: Policy, capsys: pytest.CaptureFixture[str]) -> None:
    """Of stage evaluate, by either protocol: every number, and the videos byte for byte."""
    Path("outputs/policy").mkdir(parents=True)
    (folder := Path("outputs/policy/metaworld-sft-0")).mkdir()
    save_policy(policy.flow, folder)
    words = ["--experiment", "metaworld", "--method", "sft", "--seed", "0"]
    assert stage_main("evaluate", evaluate.run, words) == 0
    own = pd.read_parquet("outputs/evaluate/metaworld-sft-0/episodes.parquet")
    assert 0 < own["success"].mean() < 1
    for protocol, wire in WIRES.items():
        with running(policy, wire, websocket) as (_, port):
            assert evaluated(port, "--protocol", protocol, "--name", protocol) == 0
        name = f"metaworld-{protocol}-0"
        table = pd.read_parquet(f"outputs/evaluate/{name}/episodes.parquet")
        assert set(table["method"]) == {protocol} and set(table["model"]) == {"tiny"}
        same = ["experiment", "benchmark", "seed", "split", "task", "episode", "env_seed", "success", "steps", "reward"]
        pd.testing.assert_frame_equal(table[same], own[same])
        assert files(name) == files("metaworld-sft-0")
        record = json.loads(Path(f"outputs/evaluate/{name}/served.json").read_text())
        assert (record["protocol"], record["noise"], record["policy"]) == (protocol, "episode", "tiny")
        said = capsys.readouterr().out
        assert "gripper              1 × binary_close_positive in [-1, 1]: its effort: -1 opens, 1 closes" in said
        assert f"Next: pirl compare metaworld-sft {name}" in said
        assert cli.main(["compare", "metaworld-sft", name]) == 0
        assert "+0.0" in capsys.readouterr().out


@contextmanager
def strangers(handle: Callable[[ServerConnection], None]) -> Iterator[int]:
    """A server of somebody else's; gives its port."""
    server: Server = serve(handle, "127.0.0.1", 0, compression=None)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
        thread.join(20)


def openpi_stranger(answer: Answer, greeting: Any = None) -> Callable[[ServerConnection], None]:
    """As openpi's own server writes; text is sent as it is."""

    def handle(connection: ServerConnection) -> None:
        connection.send(packing.pack(greeting or {}, packing.with_bytes_keys))
        for message in connection:
            assert isinstance(message, bytes)
            found = answer(packing.unpack(message, packing.bytes_keys))
            connection.send(found if isinstance(found, str) else packing.pack(found, packing.with_bytes_keys))

    return handle


def test_a_stranger_s_server_gets_an_observation_and_no_seed() -> None:
    seen: list[dict[Any, Any]] = []

    def answer(message: dict[Any, Any]) -> dict[str, Any]:
        seen.append(message)
        return {"actions": np.tile([0.0, 0.3, -0.9, 0.0], (10, 1))}

    with strangers(openpi_stranger(answer)) as port:
        assert evaluated(port, "--replan", "4", "--map", "corner2=images/front") == 0
    assert {*seen[0]} == {"images", "observation/state", "prompt"}
    assert seen[0]["images"]["front"].shape == (32, 32, 3) and seen[0]["observation/state"].shape == (39,)
    table = pd.read_parquet("outputs/evaluate/metaworld-served-0/episodes.parquet")
    assert len(seen) == sum(-(-steps // 4) for steps in table["steps"])
    assert json.loads(Path("outputs/evaluate/metaworld-served-0/served.json").read_text())["noise"] == "server"


def test_vla_eval_s_own_server() -> None:
    """A model of vla-eval, served as vla-eval serves it."""
    pytest.importorskip("vla_eval.api", reason="vla-eval is not installed")
    from vla_eval.api import serve_background
    from vla_eval.model_servers.predict import PredictModelServer

    class Presses(PredictModelServer):
        def predict(self, obs: Any, ctx: Any) -> dict[str, Any]:
            assert {*obs["images"]} == {"corner2"} and obs["states"].shape == (39,)
            return {"actions": np.array([0.0, 0.3, -0.9, 0.0])}

        def get_action_spec(self) -> dict[str, Any]:
            from vla_eval.specs import GRIPPER_CLOSE_POS, POSITION_DELTA

            return {"position": POSITION_DELTA, "gripper": GRIPPER_CLOSE_POS}

        def get_observation_spec(self) -> dict[str, Any]:
            return {}

    with serve_background(Presses(), port=0) as found:
        assert evaluated(found.port, "--protocol", "vla_eval") == 0


def hang_up(message: dict[Any, Any]) -> Any:
    raise ConnectionError


FAILURES: dict[str, tuple[Answer, tuple[str, ...]]] = {
    "actions of shape (10, 7); (R, 4) is needed: dx, dy, dz, grip": (lambda _: {"actions": np.zeros((10, 7))}, ()),
    "grip of action 2 is nan": (
        lambda _: {"actions": np.where(np.arange(40).reshape(10, 4) == 11, np.nan, 0.0)},
        (),
    ),
    "dz reaches 57, the benchmark has position in [-1, 1]": (
        lambda _: {"actions": np.array([[0.0, 0.1, -57.0, 1.0]])},
        (),
    ),
    "actions that are no numbers ('up')": (lambda _: {"actions": "up"}, ()),
    "answers without 'actions' (it has action, state)": (lambda _: {"action": [0.0], "state": [0.0]}, ()),
    "the server says: ValueError: no such camera": (
        lambda _: "Traceback:\n  infer\nValueError: no such camera\n",
        (),
    ),
    "--replan 11: the server's chunks have 10 actions": (lambda _: {"actions": np.zeros((10, 4))}, ("--replan", "11")),
    "the server hung up": (hang_up, ()),
}


def refused(capsys: pytest.CaptureFixture[str], told: str) -> None:
    """One line, and nothing half-written."""
    said = capsys.readouterr().err
    assert said.startswith("pirl: evaluate: --") and told in said and said.count("\n") == 1
    assert not Path("outputs/evaluate").exists() or not list(Path("outputs/evaluate").iterdir())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("told", FAILURES)
def test_a_server_that_fails_is_told_in_one_line(told: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer, words = FAILURES[told]
    with strangers(openpi_stranger(answer)) as port:
        assert evaluated(port, *words) == 2
    refused(capsys, told)


def test_a_server_that_dies_in_the_middle_leaves_the_earlier_result(capsys: pytest.CaptureFixture[str]) -> None:
    left = 5

    def answer(message: dict[Any, Any]) -> dict[str, Any]:
        nonlocal left
        left -= 1
        return {"actions": np.zeros((10, 4))} if left else hang_up(message)

    earlier = Path("outputs/evaluate/metaworld-served-0/episodes.parquet")
    earlier.parent.mkdir(parents=True)
    earlier.write_text("earlier")
    with strangers(openpi_stranger(answer)) as port:
        assert evaluated(port) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [*Path("outputs/evaluate").rglob("*")] == [earlier.parent, earlier]
    assert earlier.read_text() == "earlier"


def test_a_silent_server_is_told_after_the_time_limit(capsys: pytest.CaptureFixture[str]) -> None:
    stop = threading.Event()

    def say_nothing(connection: ServerConnection) -> None:
        stop.wait(30)

    with strangers(say_nothing) as port:
        assert evaluated(port, "--timeout", "1") == 2
        stop.set()
    refused(capsys, "no answer within 1 s")


def test_what_a_server_declares_is_compared(policy: Policy, capsys: pytest.CaptureFixture[str]) -> None:
    """A policy for another benchmark, of other numbers; and by vla-eval's words a gripper that closes the other way."""
    flow, names = policy.flow, METAWORLD.action
    others = {
        "its policy is one for 'calvin', env.benchmark is metaworld": METAWORLD._replace(benchmark="calvin"),
        "its policy moves 4 numbers (dx, dy, dz, gripper)": METAWORLD._replace(action=[*names[:3], "gripper"]),
    }
    for told, interface in others.items():
        flow.interface = interface
        with running(policy_of(flow), openpi, websocket) as (_, port):
            assert evaluated(port) == 2
        refused(capsys, told)

    def greet(connection: ServerConnection) -> None:
        hello = packing.unpack(connection.recv(decode=False), packing.text_keys)
        spec = {"gripper": {"name": "gripper", "dims": 1, "format": "binary_close_negative"}}
        payload = {"protocol_version": 1, "model_server": "theirs", "capabilities": {}, "action_spec": spec}
        connection.send(packing.pack(hello | {"payload": payload}, packing.with_text_keys))

    with strangers(greet) as port:
        assert evaluated(port, "--protocol", "vla_eval") == 2
    refused(capsys, "declares gripper with format 'binary_close_negative', the benchmark has 'binary_close_positive'")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--name", "flow_sde"], "--name flow_sde: a policy of the pipeline has that name"),
        (["--name", "a-b"], "--name a-b: give small letters"),
        (["--experiment", "nowhere"], "--experiment: unknown name 'nowhere'"),
        (["--keys", "droid"], "--keys droid: that robot has 8 numbers (7 joints, 1 gripper), the policy reads 39 ("),
        (["--map", "state=a,b"], "--map state: has 2 places"),
        (["--server", "http://127.0.0.1:8000"], "--server http://127.0.0.1:8000: must be ws://HOST:PORT"),
        (["--server", "ws://["], "--server ws://[: must be ws://HOST:PORT"),
        (["--server", "ws://any:word@127.0.0.1:9"], "--server ws://127.0.0.1:9: cannot be reached"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluated(9, *words) == 2
    refused(capsys, told)


def test_a_key_is_shown_and_its_lack_is_told(policy: Policy, capsys: pytest.CaptureFixture[str]) -> None:
    Path("key").write_text("secret\n")
    with running(policy, openpi, websocket, key="secret") as (_, port):
        assert evaluated(port) == 2
        refused(capsys, "lets nobody in (401 Unauthorized, wrong or no API key)")
        assert evaluated(port, "--api-key-file", "key") == 0
