"""A small workspace in which every input of the project has a good file, and who reads each."""

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from pirl_core.checkpoints.read import load_weights, open_weights
from pirl_core.checkpoints.statistics import find_statistics
from pirl_core.commands import cli
from pirl_core.data.lerobot import write_dataset
from pirl_core.envs import assets
from pirl_core.envs.libero.files import read_states
from pirl_core.envs.metaworld.facts import FACTS
from pirl_core.flow.chain import Noise
from pirl_core.params.file import load_params
from pirl_core.params.preset import preset_values
from pirl_core.params.sections import exploring_labels
from pirl_core.policy.exploration import save_exploration
from pirl_core.policy.flow_policy import Process
from pirl_core.policy.folder import save_policy
from pirl_core.report import show
from pirl_core.stages import curate, evaluate, report, rl, sft
from pirl_core.stages.cli import report_main, stage_main
from tests.checkpoints import test_statistics
from tests.data import test_recorded, test_recorded_videos, test_shared_files
from tests.data.test_data import make_episode
from tests.fuzz.inputs import Entry, Target
from tests.stages.test_broken import CAMERAS, SIZES
from tests.worlds import small_policy

ARGUMENTS = ["--experiment", "metaworld", "--method", "flow_sde", "--seed", "0"]
POLICY, RECORD = "outputs/policy/metaworld-flow_sde-0", "outputs/run/rl/metaworld-flow_sde-0.json"
Main = Callable[[list[str]], Any]
OPTIONS = [("--experiment", "metaworld"), ("--method", "flow_sde"), ("--seed", "0")]


def stage(name: str, *argv: str) -> Any:
    run = {"curate": curate.run, "sft": sft.run, "rl": rl.run, "evaluate": evaluate.run}[name]
    count = {"curate": 2, "sft": 6}.get(name, 6)
    words = ARGUMENTS[:2] + ARGUMENTS[4:] if name == "sft" else ARGUMENTS[:count]
    return stage_main(name, run, [*words, *argv])


MAINS: dict[str, tuple[Main, list[tuple[str, str]]]] = {
    "curate": (partial(stage_main, "curate", curate.run), OPTIONS[:1]),
    "sft": (partial(stage_main, "sft", sft.run), [OPTIONS[0], OPTIONS[2]]),
    "rl": (partial(stage_main, "rl", rl.run), OPTIONS),
    "evaluate": (partial(stage_main, "evaluate", evaluate.run), OPTIONS),
    "report": (partial(report_main, report.run), [("--params", "params.yaml")]),
    "status": (lambda words: cli.main(["status", *words]), [("--root", ".")]),
    "compare": (lambda words: cli.main(["compare", *words]), [("metaworld-sft-0", "metaworld-flow_sde-0")]),
    "scale": (lambda words: cli.main(["scale", *words]), [("--params", "params.yaml")]),
    "plan": (lambda words: cli.main(["plan", *words]), [*OPTIONS[:2], ("--gpus", "2"), ("--gpu-gib", "1")]),
    "inspect": (lambda words: cli.main(["inspect", "recorded/shared", *words]), [OPTIONS[0], ("--episodes", "2")]),
    "export": (lambda words: cli.main(["export", POLICY, *words]), [("--to", "openpi"), ("--dtype", "keep")]),
    "push": (
        lambda words: cli.main(["push", POLICY, "a/b", "--dry-run", *words]),
        [("--record", RECORD), ("--metrics", "results/smoke/metrics.json"), ("--sft", "outputs/sft/metaworld-0")],
    ),
    "assets": (assets.main, [("check", "calvin")]),
}  # fmt: skip


def make_template() -> None:
    """Fills the working folder: the real stages make what they can make without a simulator."""
    content = preset_values("smoke")
    content["env"].update(cameras=CAMERAS, object_state=True)
    content["sft"].update(steps=1, batch_size=2)
    content["evaluate"]["exploring_episodes_per_task"] = 1
    content["run"]["checkpoint_minutes"] = 0
    Path("params.yaml").write_text(yaml.safe_dump(content))
    for name, env in (("images", test_recorded.LIBERO), ("videos", test_recorded_videos.CALVIN),
                      ("shared", test_shared_files.ALONE)):  # fmt: skip
        other = json.loads(json.dumps(content))
        other["env"] = env.model_dump()
        other["curate"] = test_recorded.CURATE.model_dump() | {"dataset": f"recorded/{name}"}
        other["evaluate"] |= {"exploring_episodes_per_task": 0}
        other["evaluate"]["splits"] = {"id": {"tasks": None, "shift": "none", "episodes_per_task": 1}}
        Path(f"{name}.yaml").write_text(yaml.safe_dump(other))
    test_recorded.write_recorded(Path("recorded/images"), test_recorded.LIBERO, 5, "v2.0", **test_recorded.NAMES)
    test_recorded_videos.write_calvin(Path("recorded/videos"))
    shutil.copytree(test_shared_files.WRITTEN / "videos", "recorded/shared")
    dataset = Path("outputs/curate/metaworld")
    dataset.mkdir(parents=True)
    rng = np.random.default_rng(0)
    write_dataset(dataset, [make_episode(rng, task, 5) for task in (1, 0)], CAMERAS, FACTS)
    _evaluations()
    for name in ("sft", "flow_sde", "flow_noise"):
        folder = Path(f"outputs/policy/metaworld-{name}-0")
        folder.mkdir(parents=True)
        policy = small_policy(**SIZES)
        policy.add_heads(Process("one_layer", "env", "sum", None), 1, learned_noise=True)
        save_policy(policy, folder)
        if name != "sft":
            save_exploration(policy, Noise("learned", 0.0, 0.1, 0.2), "one_layer", folder)
    assert stage("sft") == 0
    save_policy(small_policy(**SIZES), Path("outputs/policy/metaworld-sft-0"))
    _records()
    _published()
    assert report_main(report.run, []) == 0


def _evaluations() -> None:
    from tests.report.made_up import fill

    params = load_params("params.yaml")
    tasks = dict.fromkeys(params.env.tasks, 2)
    splits = ["id", *(name.replace("_", ":", 1) for name in params.evaluate.splits if name != "id")]
    counts = {(split, method): tasks for split in splits for method in params.policies}
    counts |= {(split, m): tasks for m in params.methods for split in exploring_labels(params.evaluate, m)}
    fill(Path("outputs"), params, counts, n=4)
    warning = json.dumps({"step": 1, "text": "approx_kl 2 exceeds 1"})
    Path("outputs/rl/metaworld-flow_sde-0/warnings.jsonl").write_text(warning + "\n")


def _records() -> None:
    record = json.loads(Path("outputs/run/sft/metaworld-0.json").read_text())
    for name in ("flow_sde", "flow_noise"):
        record |= {"stage": "rl", "name": f"metaworld-{name}-0", "seeds": {"training": 0}, "revision": "abc"}
        Path(f"outputs/run/rl/metaworld-{name}-0.json").write_text(json.dumps(record))


def _published() -> None:
    """Weights of others with their statistics, and stored states of a simulator."""
    for name, make in (("openpi", test_statistics.openpi), ("lerobot", test_statistics.lerobot),
                       ("groot", test_statistics.groot)):  # fmt: skip
        Path(f"published/{name}").mkdir(parents=True)
        make(Path(f"published/{name}"))
    folder = Path("published/weights")
    folder.mkdir()
    shards = {"weight": "model-00001-of-00002.safetensors", "bias": "model-00002-of-00002.safetensors"}
    for key, value in torch.nn.Linear(3, 2).state_dict().items():
        save_file({key: value}, folder / shards[key])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    with zipfile.ZipFile("published/states.pruned_init", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(np.ones((5, 7)), protocol=2))


def _load_weights() -> None:
    module = torch.nn.Linear(3, 2)
    load_weights(module, open_weights(Path("published/weights")), lambda key: key)


def make_targets() -> dict[str, Target]:
    """By kind of input."""

    def command(*words: str) -> list[str]:
        return ["pirl_core", *words]

    def pirl(*words: str) -> Entry:
        return lambda: cli.main(list(words))

    stages = [partial(stage, name) for name in ("curate", "rl", "evaluate")]
    reports: list[Entry] = [lambda: report_main(report.run, [])]
    compared = ["outputs/evaluate/metaworld-sft-0", "outputs/evaluate/metaworld-flow_sde-0"]
    return {
        "params": Target(
            6, ["params.yaml"], [*stages, *reports, pirl("scale"), pirl("plan")],
            [["pirl_core.stages.curate", *ARGUMENTS[:2]], command("plan"), ["pirl_core.stages.report"]],
        ),
        "dataset": Target(
            4, [f"outputs/curate/metaworld/{name}" for name in ("meta/info.json", "meta/tasks.parquet", "data/*/*")],
            [partial(stage, "sft")], [["pirl_core.stages.sft", *ARGUMENTS[:2], *ARGUMENTS[4:]]],
        ),
        "policy": Target(
            4, [f"outputs/policy/metaworld-{name}-0/*" for name in ("sft", "flow_sde")],
            [partial(stage, "rl"), partial(stage, "evaluate"), pirl("export", POLICY, "exported", "--to", "openpi")],
            [command("export", POLICY, "exported", "--to", "lerobot")],
        ),
        "evaluations": Target(
            6, ["outputs/evaluate/*/episodes.parquet", "outputs/evaluate/*/videos/*", "outputs/*/*/*.jsonl",
                "outputs/run/*/*.json"],
            [*reports, *reports, *reports, pirl("compare", *compared), pirl("compare", *compared, "--json")],
            [["pirl_core.stages.report"], command("compare", *compared)],
        ),
        "results": Target(
            2, ["results/*/*.json", "results/*/*.parquet", RECORD],
            [lambda: show.main([]), pirl("push", POLICY, "a/b", "--dry-run", "--record", RECORD),
             pirl("compare", *(f"results/smoke/metaworld-{name}" for name in ("sft", "flow_sde-0")))],
            [["pirl_core.report.show"]],
        ),
        "status": Target(
            2, [".pirl/status/*.json"], [pirl("status", "--all"), pirl("status", "--json")], [command("status")]
        ),
        "images": Target(
            4, ["recorded/images/meta/*", "recorded/images/data/*/*"],
            [partial(stage, "curate", "--params", "images.yaml")],
            [["pirl_core.stages.curate", *ARGUMENTS[:2], "--params", "images.yaml"]],
        ),
        "videos": Target(
            3, ["recorded/videos/meta/*", "recorded/videos/data/*/*", "recorded/videos/videos/*/*/*"],
            [partial(stage, "curate", "--params", "videos.yaml")], [],
        ),
        "shared": Target(
            4, ["recorded/shared/meta/*.*", "recorded/shared/meta/*/*/*", "recorded/shared/data/*/*",
                "recorded/shared/videos/*/*/*"],
            [partial(stage, "curate", "--params", "shared.yaml"), pirl("inspect", "recorded/shared")],
            [["pirl_core.stages.curate", *ARGUMENTS[:2], "--params", "shared.yaml"]],
        ),
        "weights": Target(2, ["published/weights/*"], [_load_weights], []),
        "openpi": Target(1, ["published/openpi/*/*/*"], [lambda: find_statistics(Path("published/openpi"))], []),
        "lerobot": Target(2, ["published/lerobot/*"], [lambda: find_statistics(Path("published/lerobot"))], []),
        "groot": Target(1, ["published/groot/*/*"], [lambda: find_statistics(Path("published/groot"))], []),
        "states": Target(1, ["published/*_init"], [lambda: read_states(Path("published/states.pruned_init"))], []),
        "checkpoint": Target(2, [".pirl/resume/sft/*/*/*/*.*"], [partial(stage, "sft")], []),
        "arguments": Target(3, [], [], []),
        "variables": Target(2, [], [*stages, partial(stage, "sft"), *reports], []),
    }  # fmt: skip
