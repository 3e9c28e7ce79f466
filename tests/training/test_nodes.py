"""Several nodes: two `accelerate launch` of the shipped files, each a node of its own as far as they know."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from tests.flows.workspace import words_of
from tests.stages.test_end_to_end import command, variables, workspace
from tests.training.test_ranks import gone

pytestmark = pytest.mark.slow
NODES = """\
#!/bin/sh
# Stands for srun: the same command on two nodes.
for rank in 1 0; do
  {python} -m accelerate.commands.launch --config_file pirl_core/accelerate/{sharding}.yaml --num_machines 2 \\
    --num_processes 2 --machine_rank $rank --main_process_ip 127.0.0.1 --main_process_port {port} "$@" &
  started="$started $!"
done
trap 'kill $started' TERM
code=0
for one in $started; do wait $one || code=$?; done
exit $code
"""


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = workspace(tmp_path_factory.mktemp("nodes"))
    subprocess.run(command("curate"), cwd=folder, env=variables(1), check=True, capture_output=True)
    subprocess.run(command("sft", "0"), cwd=folder, env=variables(1), check=True, capture_output=True)
    return folder


def on_nodes(folder: Path, sharding: str) -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = folder / "nodes.sh"
    script.write_text(NODES.format(python=sys.executable, sharding=sharding, port=port))
    script.chmod(0o755)
    return {**variables(1), "PIRL_LAUNCH": "./nodes.sh", "PYTHONPATH": str(folder)}


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_nodes_train_as_one_rank_does(sharding: str, curated: Path, tmp_path: Path) -> None:
    shutil.copytree(curated, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "outputs/policy")
    done = subprocess.run(
        command("sft", "0"), cwd=tmp_path, env=on_nodes(tmp_path, sharding), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    name = "outputs/policy/metaworld-sft-0/model.safetensors"
    one, two = load_file(curated / name), load_file(tmp_path / name)
    # Adam makes steps of gradients that are nothing but rounding: those of keys' biases, which softmax cancels.
    for key in (key for key in one if not key.endswith("k_proj.bias")):
        assert (one[key] - two[key]).norm() <= 1e-3 * one[key].norm() + 1e-6, key
    record = yaml.safe_load((tmp_path / "outputs/run/sft/metaworld-0.json").read_text())
    assert (record["machine"]["processes"], record["machine"]["sharding"]) == (2, sharding)
    assert not list((tmp_path / ".pirl/resume").glob("sft/*"))


def test_a_rank_that_dies_ends_both_nodes(curated: Path, tmp_path: Path) -> None:
    shutil.copytree(curated, tmp_path, dirs_exist_ok=True)
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["rl"]["iterations"] = 10_000
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with subprocess.Popen(
        command("rl", "0", "flow_sde"), cwd=tmp_path, env=on_nodes(tmp_path, "fsdp"), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        for _ in range(3):
            assert "/10000" in process.stdout.readline()
        everyone = psutil.Process(process.pid).children(recursive=True)
        ranks = [p for p in everyone if "pirl_core.stages.rl" in words_of(p) and p.environ().get("RANK") == "1"]
        next(p for p in ranks if "accelerate.commands.launch" not in words_of(p)).kill()
        began = time.monotonic()
        gone(everyone, 30)
        assert process.wait(10) != 0
        assert time.monotonic() - began < 40
        assert "lost another one; a rerun of all goes on from the last checkpoint" in process.stderr.read()


def test_a_launcher_that_is_not_there_is_told_in_a_line(curated: Path) -> None:
    done = subprocess.run(
        command("sft", "0"), cwd=curated, env={**os.environ, "PYTHONPATH": "", "PIRL_LAUNCH": "no-such-launcher -x"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("pirl: sft: PIRL_LAUNCH = 'no-such-launcher -x'") and done.stderr.count("\n") == 1
