"""π0, π0.5 and GR00T N1.5 at their published sizes with random weights, on this machine's CPU: times, the cache's
ratio, memory of their files.

Four processes each, since each one's peak counts: compute, write, read, export.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.context import compare
from benchmarks.measure import Row, part_parser, run_part, seconds
from benchmarks.setting import random_observation, random_policy
from pirl_core.checkpoints.export import export
from pirl_core.checkpoints.layouts import layout_of
from pirl_core.params.file import Run, resolve
from pirl_core.params.preset import load_preset
from pirl_core.policy.backbone import published_sizes
from pirl_core.policy.families.groot.network import groot_shape
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.policy.folder import load_policy, save_policy
from pirl_core.policy.tokenizer import IMAGE
from pirl_core.provenance.machine import MemoryWatch

GIB = 2**30
MOST = 1.3
"""Times the file that a process may hold at its peak."""
Told = dict[str, Any]


class Model(NamedTuple):
    """name: for the table. scale, experiment: the preset whose policy it is. target: where it is exported to."""

    name: str
    scale: str
    experiment: str
    target: str


MODELS = {
    "pi0": Model("π0", "paper", "metaworld", "openpi"),
    "pi05": Model("π0.5", "paper", "metaworld_pi05", "openpi"),
    "groot": Model("GR00T N1.5", "paper_groot", "libero_spatial_groot", "isaac"),
}


def paper(family: str, size: str, folder: Path) -> Run:
    """The paper's model on MetaWorld, from random weights and a tokenizer of a few words; four denoising steps."""
    run = resolve(load_preset("paper"), "metaworld", "flow_sde")
    model = MODELS[family]
    policy = resolve(load_preset(model.scale), model.experiment, "flow_sde").policy
    words = folder / "words"
    if not words.is_dir():
        words.mkdir()
        write_words(words / "tokenizer.json")
    own = {"pretrained": None, "tokenizer": str(words), "denoise_steps": 4, "size": size}
    env = run.env.model_copy(update={"tasks": ["reach-v3"]})
    return run._replace(env=env, policy=policy.model_copy(update=own))


def write_words(path: Path) -> None:
    """The special words of all three families under their numbers, where these matter; any other is unknown."""
    groot = groot_shape("full", published_sizes("groot", 1, 16))
    words = ["<unk>", "<bos>", "<|im_start|>", "<|im_end|>", "<img>", "</img>"]
    vocabulary = {word: number for number, word in enumerate(words)} | {IMAGE: groot.image_token}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=words[0]))
    tokenizer.add_special_tokens(list(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path))


def compute(options: argparse.Namespace) -> Told:
    run = paper(options.family, options.size, options.folder)
    made: list[FlowPolicy] = []
    built = seconds(lambda: made.append(random_policy(run, run.policy)))
    policy, label = made.pop(), f"{MODELS[options.family].name}, {options.size}"
    minibatches = [compare(policy, run, label, count, options.rounds) for count in options.decisions]
    return {"built": built, **_times(policy, run, options.rounds), "rows": minibatches}


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
    run = paper(options.family, options.size, options.folder)
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
    layout = layout_of(policy, MODELS[options.family].target)
    spent = seconds(lambda: export(policy.backbone.state_dict(), layout, options.folder / "export"))
    return {"seconds": spent}


STAGES: dict[str, Callable[[argparse.Namespace], Told]] = {
    "compute": compute,
    "write": write,
    "read": read,
    "export": write_export,
}


def rows(options: argparse.Namespace) -> list[Row]:
    return [row for family in options.families for row in _rows(family, options)]


def _rows(family: str, options: argparse.Namespace) -> list[Row]:
    name = f"{MODELS[family].name}, {options.size}"
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        found = {stage: _told(family, stage, folder, options) for stage in STAGES}
        size = sum(path.stat().st_size for path in Path(folder, "policy").rglob("*.safetensors"))
    first = found["compute"]
    made = [
        Row(
            f"{name}: s to encode an observation, and for four denoising steps",
            f"{first['encode']:.2f}, {first['steps']:.2f}",
            how=f"{first['count'] / 1e9:.2f} billion parameters with random weights, fp32, built in"
            f" {first['built']:.0f} s; the process had {first['peak']:.1f} GiB at its peak",
        ),
        *(Row(*row) for row in first["rows"]),
    ]
    for stage in ("write", "read", "export"):
        peak = found[stage]["peak"] * GIB / size
        made.append(
            Row(
                f"{name}: memory to {stage} its checkpoint / the file",
                f"{peak:.2f} × ({found[stage]['peak']:.1f} / {size / GIB:.1f} GiB)",
                f"≤ {MOST} ×",
                peak <= MOST,
                f"{found[stage]['seconds']:.0f} s, without building or reading the policy first",
            )
        )
    return made


def _told(family: str, stage: str, folder: str, options: argparse.Namespace) -> Told:
    command = [sys.executable, "-m", "benchmarks.full_size", "--family", family, "--stage", stage, "--folder", folder,
               "--size", options.size, "--rounds", str(options.rounds),
               "--decisions", *map(str, options.decisions)]  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    told: Told = json.loads(done.stdout.splitlines()[-1])
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("full_size", __doc__)
    add = parser.add_argument
    add("--families", nargs="+", choices=MODELS, default=list(MODELS), help="policy.backbone")
    add("--size", default="full", help="policy.size")
    add("--decisions", type=int, nargs="+", default=[1], help="of a minibatch, each a row")
    add("--rounds", type=int, default=2, help="measurements of each side")
    add("--scratch", type=Path, help="where the files are made, and removed afterwards (default: the system's folder)")
    add("--family", choices=MODELS, help=argparse.SUPPRESS)
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
