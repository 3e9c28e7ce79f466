"""``pirl serve`` itself: how it begins and ends, and what it says to a mistake."""

import signal
from pathlib import Path

import pytest

from benchmarks.serving import listening
from pirl_core.commands import cli
from pirl_core.policy.folder import save_policy
from pirl_core.serving import packing
from pirl_core.serving.policy import Policy
from pirl_core.types import Observation
from tests.serving.running import chunk_of, close, dial, openpi_message, predicted


def test_the_command_serves_and_stops_when_told(policy: Policy, seen: Observation, tmp_path: Path) -> None:
    """With an answer under way: it is sent first."""
    save_policy(policy.flow, tmp_path)
    message = packing.pack(openpi_message(seen, 0, seed=4), packing.with_bytes_keys)
    with listening(tmp_path, PIRL_API_KEY="k", PIRL_THREADS="1") as (process, port):
        with dial(port, "any:k@") as raw:
            raw.recv()
            raw.send(message)
            raw.recv(60)
            raw.send(message)
            # The pong says that the message before it has arrived.
            assert raw.ping().wait(30)
            process.send_signal(signal.SIGTERM)
            close(chunk_of(raw.recv(60)), predicted(policy, seen, 0, 4, 1))
            with pytest.raises(Exception, match="1001"):
                raw.recv(60)
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out, errors) == (0, "stopped\n", "")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--keys", "bridge"], "--keys bridge: protocol openpi has libero, droid, aloha; choose"),
        (
            ["--keys", "droid"],
            "--keys droid: that robot has 8 numbers (7 joints, 1 gripper), the policy reads 4 (a, b, c, d)",
        ),
        (
            ["--map", "wrist=x"],
            "--map wrist=x: must be NAME=PLACE, with NAME one of agentview, eye_in_hand, state, prompt",
        ),
        (["--map", "state=a", "--map", "state=b"], "--map state=b: must be NAME=PLACE"),
        (["--host", "203.0.113.7"], "--host 203.0.113.7 --port 8000: cannot listen there"),
        (["--api-key-file", "absent"], "absent: no such file; write the key into it"),
        (["--protocol", "lerobot", "--api-key-file", "key"], "--protocol lerobot: its clients can show no API key"),
        (["--protocol", "groot", "--keys", "libero"], "--keys libero: protocol groot has none"),
        (["--protocol", "groot", "--host", "203.0.113.7"], "--host 203.0.113.7 --port 5555: cannot listen there"),
        (["--protocol", "lerobot", "--host", "203.0.113.7"], "--host 203.0.113.7 --port 8080: cannot listen there"),
        (["--api-key-file", "empty"], "--api-key-file empty: a key is one word of printable ASCII"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    words: list[str], told: str, policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    save_policy(policy.flow, tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "key").write_text("k\n")
    assert cli.main(["serve", str(tmp_path), *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"pirl: serve: {told}") and said.count("\n") == 1
