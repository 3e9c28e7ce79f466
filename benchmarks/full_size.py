"""π0 at its published size with random weights, on this machine's CPU: times, the cache's ratio, memory of its files.

Four processes, since each one's peak counts: compute, write, read, export.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.context import compare
from benchmarks.measure import Row, part_parser, run_part, seconds
from benchmarks.setting import random_observation, random_policy
from pirl_core.checkpoints.export import export
from pirl_core.checkpoints.layouts import layout_of
from pirl_core.params.file import Run, resolve
from pirl_core.params.preset import load_preset
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.policy.folder import load_policy, save_policy
from pirl_core.policy.tokenizer import build_tokenizer
from pirl_core.provenance.machine import MemoryWatch

GIB = 2**30
MOST = 1.3
"""Times the file that a process may hold at its peak."""
Told = dict[str, Any]


def paper(options: argparse.Namespace) -> Run:
    """π0 on MetaWorld as in the paper, from random weights and a tokenizer of a few words; four denoising steps."""
    run = resolve(load_preset("paper"), "metaworld", "flow_sde")
    words = options.folder / "words"
    if not words.is_dir():
        words.mkdir()
        build_tokenizer(["<bos> turn the handle"]).save(str(words / "tokenizer.json"))
    own = {"pretrained": None, "tokenizer": str(words), "denoise_steps": 4, "size": options.size}
    env = run.env.model_copy(update={"tasks": ["reach-v3"]})
    return run._replace(env=env, policy=run.policy.model_copy(update=own))


def compute(options: argparse.Namespace) -> Told:
    run = paper(options)
    made: list[FlowPolicy] = []
    built = seconds(lambda: made.append(random_policy(run, run.policy)))
    told = {"built": built, **_times(made.pop(), run, options.rounds)}
    return {**told, "row": compare(run, run.policy, f"π0, {options.size}", 1, options.rounds)}


@torch.no_grad()
def _times(policy: FlowPolicy, run: Run, rounds: int) -> Told:
    """Best of the rounds, for one observation."""
    observation = random_observation(run, 1)
    context, chunk = policy.encode(observation), torch.zeros(1, *policy.chunk_shape)

    def denoise() -> None:
        for step in range(policy.denoise_steps):
            policy.backbone.velocity(context, chunk, torch.full((1,), step / policy.denoise_steps))

    return {
        "count": sum(parameter.numel() for parameter in policy.backbone.parameters()),
        "encode": min(seconds(lambda: policy.encode(observation)) for _ in range(rounds)),
        "steps": min(seconds(denoise) for _ in range(rounds)),
    }


def write(options: argparse.Namespace) -> Told:
    run = paper(options)
    policy = random_policy(run, run.policy)
    (options.folder / "policy").mkdir()
    spent = seconds(lambda: save_policy(policy, options.folder / "policy"))
    return {"seconds": spent}


def read(options: argparse.Namespace) -> Told:
    kept: list[FlowPolicy] = []
    spent = seconds(lambda: kept.append(load_policy(options.folder / "policy")))
    return {"seconds": spent}


def write_export(options: argparse.Namespace) -> Told:
    policy = load_policy(options.folder / "policy")
    layout = layout_of(policy, "openpi")
    spent = seconds(lambda: export(policy.backbone.state_dict(), layout, options.folder / "export"))
    return {"seconds": spent}


STAGES: dict[str, Callable[[argparse.Namespace], Told]] = {
    "compute": compute,
    "write": write,
    "read": read,
    "export": write_export,
}


def rows(options: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        found = {name: _told(name, folder, options) for name in STAGES}
        size = sum(path.stat().st_size for path in Path(folder, "policy").rglob("*.safetensors"))
    first = found["compute"]
    made = [
        Row(
            f"π0, {options.size}: s to encode an observation, and for four denoising steps",
            f"{first['encode']:.2f}, {first['steps']:.2f}",
            how=f"{first['count'] / 1e9:.2f} billion parameters with random weights, fp32, built in"
            f" {first['built']:.0f} s; the process had {found['compute']['peak']:.1f} GiB at its peak",
        ),
        Row(*first["row"]),
    ]
    for name in ("write", "read", "export"):
        peak = found[name]["peak"] * GIB / size
        made.append(
            Row(
                f"π0, {options.size}: memory to {name} its checkpoint / the file",
                f"{peak:.2f} × ({found[name]['peak']:.1f} / {size / GIB:.1f} GiB)",
                f"≤ {MOST} ×",
                peak <= MOST,
                f"{found[name]['seconds']:.0f} s, without building or reading the policy first",
            )
        )
    return made


def _told(stage: str, folder: str, options: argparse.Namespace) -> Told:
    command = [sys.executable, "-m", "benchmarks.full_size", "--stage", stage, "--folder", folder, "--size",
               options.size, "--rounds", str(options.rounds)]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    told: Told = json.loads(done.stdout.splitlines()[-1])
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("full_size", __doc__)
    add = parser.add_argument
    add("--size", default="full", help="policy.size")
    add("--rounds", type=int, default=2, help="measurements of each side")
    add("--scratch", type=Path, help="where the files are made, and removed afterwards (default: the system's folder)")
    add("--stage", choices=STAGES, help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    options, _ = parser.parse_known_args(arguments)
    if options.stage:
        with MemoryWatch(0.2) as watch:
            told = STAGES[options.stage](options)
        print(json.dumps({**told, "peak": watch.peak_mib / 1024}))
        return
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()
