"""Takes every experiment of the paper's presets through all five stages, shrunk to minutes; writes nothing here.

python -m tests.stages.dry_paper [PART...] [--experiment NAME...]

Each part is run by `python -m pirl_core.commands.repro` in a folder of its own: the same benchmarks, model families and
methods, with the smallest network of each family, one task, one scripted demonstration, one iteration, one episode. The
simulators and their assets must be here.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from pirl_core.facts import facts_of
from pirl_core.params.file import resolve
from pirl_core.params.preset import load_preset, preset_values
from pirl_core.report.evidence import parts_of
from tests import ROOT

# Of what the scripted experts show in the suite, the first.
SHOWN = {"libero_goal": "libero_spatial_0", "libero_10": "libero_object_9", "libero_object": "libero_object_9"}
ONE = {"episodes_per_task": 1}
SCRIPTED = {"dataset": None, "dataset_revision": None, "keep_per_task": None, "keep_episodes": None}


def shrunk(part: str, experiments: list[str] | None = None) -> dict[str, Any]:
    """The part's values, of the given experiments or of all."""
    values, whole = preset_values(part), load_preset(part)
    chosen = {
        name: entry for name, entry in values["experiments"].items() if experiments is None or name in experiments
    }
    for name, entry in chosen.items():
        run = resolve(whole, name)
        task = run.env.tasks[0]
        scripted = SHOWN.get(task.rpartition("_")[0], task)
        # A sequence asks for a demonstration of each of its subtasks.
        scripted = scripted.replace("/sequence", "/open_drawer")
        entry["env"] = entry["env"] | {"tasks": [scripted], "image_size": 64, "fast_render": True, "sim_backend": "cpu"}
        entry["curate"] = {
            "dataset": None,
            "dataset_revision": None,
            "keep_per_task": None,
            "keep_episodes": None,
        } | ONE
        entry["policy"] = entry["policy"] | {"size": "nano", "pretrained": None, "tokenizer": "words"}
        entry["sft"] = {"steps": 2, "batch_size": 4, "micro_batch_size": None, "warmup_steps": 0}
        rl = {key: value for key, value in entry["rl"].items() if key not in ("watch", "minibatch_size")}
        entry["rl"] = rl | {"iterations": 1, "num_envs": 2, "episodes_per_iteration": 2}
        tasks = set(facts_of(run.env.benchmark).tasks)
        splits = run.evaluate.splits
        entry["evaluate"] = {
            "splits": {
                key: {"tasks": None if split.tasks is None else [t for t in split.tasks if t in tasks][:1], **ONE}
                | {"shift": split.shift}
                for key, split in list(splits.items())[:2]
            }
        }
    values |= {"seeds": [0], "experiments": chosen}
    values["env"] |= {"image_size": 64, "fast_render": True}
    values["policy"] |= {"size": "nano", "pretrained": None, "tokenizer": "words"}
    values["sft"] |= {"precision": "fp32", "activation_checkpointing": False, "micro_batch_size": None}
    values["rl"] |= {
        "minibatch_size": 4, "micro_batch_size": None, "precision": "fp32", "validation_episodes_per_task": 1,
        "update_epochs": 1, "context_device_gib": 0.1, "context_host_gib": 0.0,
    }  # fmt: skip
    values["evaluate"] |= {"num_envs": 2, "videos_per_outcome": 0}
    values["evaluate"]["exploring_episodes_per_task"] = min(1, values["evaluate"]["exploring_episodes_per_task"])
    values["run"]["validation_videos"] = 0
    for method in values["methods"].values():
        method |= {"group_size": 2} if "group_size" in method else {}
    return values


def run(part: str, experiments: list[str] | None, folder: Path) -> bool:
    shutil.copytree(ROOT / "pirl_core", folder / "pirl_core", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text((ROOT / ".dvc/config").read_text() + "    no_scm = true\n")
    (folder / "params.yaml").write_text(yaml.safe_dump(shrunk(part, experiments), sort_keys=False, allow_unicode=True))
    environment = os.environ | {"PYTHONPATH": str(folder)}
    words = [sys.executable, "-m", "pirl_core.commands.repro", "--keep-going"]
    return subprocess.run(words, cwd=folder, env=environment, check=False).returncode == 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.stages.dry_paper", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("parts", nargs="*", default=parts_of("paper"), metavar="PART")
    parser.add_argument("--experiment", action="append", metavar="NAME", help="only this one; may be repeated")
    args = parser.parse_args(argv)
    bad = []
    for part in args.parts:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            good = run(part, args.experiment, Path(folder).resolve())
        print(f"{part}: {'all five stages' if good else 'FAILED'}, {time.monotonic() - began:.0f} s", flush=True)
        bad += [] if good else [part]
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
