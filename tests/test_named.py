"""A benchmark, a model family and a noise rule of one's own, in a package outside the repository, by their names."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pirl_core import named
from pirl_core.params.file import load_params
from pirl_core.params.preset import preset_values
from tests import ROOT
from tests.stages.test_end_to_end import command

PACKAGE = {
    "reach/facts.py": """
from pirl_core.facts import Facts, Task

FACTS = Facts(
    label="Reach", tasks={"left": Task(("go left",), "all"), "right": Task(("go right",), "all")}, groups=("all",),
    cameras=(), shifts=("far",), state=("x",), object_state=1, action=("dx",), rate=10, robot="dot", action_range=1.0,
)
""",
    "reach/open.py": '''
import numpy as np

from pirl_core import seeds


class World:
    """A dot on a line, to be brought to -1 or to 1."""

    def __init__(self, settings, task):
        self.settings, self.task = settings, task

    def fits(self, episode):
        return episode.task == self.task

    def reset(self, episode):
        rng = np.random.default_rng(episode.seed)
        self.x, self.steps = float(rng.uniform(-0.2, 0.2)) + 0.2 * (episode.shift == "far"), 0

    def step(self, action):
        self.x += 0.3 * float(np.clip(action[0], -1, 1))
        self.steps += 1
        solved = self.x < -1 if self.task == "left" else self.x > 1
        return float(solved), solved, self.steps >= self.settings.episode_steps

    def state(self):
        return np.array([self.x], np.float32)

    def instruction(self):
        return f"go {self.task}"

    def images(self):
        return np.zeros((0, self.settings.image_size, self.settings.image_size, 3), np.uint8)

    def picture(self, camera, size, fast):
        return np.zeros((size, size, 3), np.uint8)

    def close(self):
        pass


def simulator(settings, episode):
    return World(settings, episode.task)


def expert():
    def show(world, act):
        for _ in range(world.settings.episode_steps):
            act(np.array([-0.9 if world.task == "left" else 0.9]))

    return show
''',
    "dot/family.py": '''
from typing import Literal, NamedTuple

import torch
from torch import nn

from pirl_core.policy.context import Context, DataSizes
from pirl_core.policy.layers import plain

PROMPT = "words"


class Shape(NamedTuple):
    image_size: int
    cameras: int
    vocabulary: int
    text_length: int
    state_dim: int
    action_dim: int
    horizon: int
    expert_width: int
    stem: str

    @property
    def family(self):
        return "my_lab.dot"


class Network(nn.Module):
    """A mean of words and an expert of two layers."""

    resize = "openpi"

    def __init__(self, shape):
        super().__init__()
        self.shape, self.run_layer, width = shape, plain, shape.expert_width
        self.words = nn.Embedding(shape.vocabulary, width)
        self.into = nn.Linear(width + shape.state_dim + shape.action_dim + 1, width)
        self.out = nn.Linear(width, shape.action_dim)

    @property
    def vlm_modules(self):
        return [self.words]

    @property
    def context_width(self):
        return self.shape.expert_width + self.shape.state_dim

    def freeze_vlm(self):
        self.words.requires_grad_(False)

    def encode(self, inputs):
        valid = inputs.tokens_valid
        words = self.words(inputs.tokens) * valid[..., None]
        return Context(words[:, None], valid, words.sum(1), inputs.state)

    def velocity(self, context, x, tau):
        read = torch.cat([context.memory[:, 0].sum(1), context.state], -1).to(x.dtype)
        read = read[:, None].expand(-1, x.shape[1], -1)
        time = tau.to(x.dtype)[:, None, None].expand(-1, x.shape[1], 1)
        features = torch.tanh(self.into(torch.cat([read, x, time], -1).to(self.into.weight.dtype)))
        return self.out(features), features


def shape(size, data):
    return Shape(**data._asdict(), expert_width=16, stem="conv")


def published_sizes(cameras, horizon):
    return DataSizes(32, cameras, 10, 4, 1, 1, horizon)
''',
    "wide.py": '''
import torch

from pirl_core.flow.noise import Weights, ode


def weights(tau, delta, level):
    """The Euler step, and as much noise at every time."""
    return ode(tau, delta)._replace(std=torch.full_like(tau, level))
''',
}


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """The package's parent, and a workspace beside it without a copy of the project."""
    for name, text in PACKAGE.items():
        path = tmp_path / "lab/my_lab" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for folder in {path.parent, tmp_path / "lab/my_lab"}:
            (folder / "__init__.py").touch()
    params = preset_values("smoke")
    params["env"].update(benchmark="my_lab.reach", tasks=["left", "right"], cameras=[], object_state=True)
    params["env"].update(episode_steps=12)
    params["policy"].update(backbone="my_lab.dot")
    params["rl"].update(noise_rule="my_lab.wide", num_envs=4, episodes_per_iteration=8, iterations=2)
    params["rl"].update(validation_episodes_per_task=2, critic="expert", critic_warmup_iterations=0)
    params["sft"].update(steps=30, log_every=10)
    params["evaluate"].update(splits={"id": {"tasks": None, "shift": "none", "episodes_per_task": 4}})
    params["evaluate"]["splits"]["ood_far"] = {"tasks": ["left"], "shift": "far", "episodes_per_task": 4}
    params["evaluate"].update(num_envs=2, videos_per_outcome=0)
    params["run"].update(validation_videos=0)
    params.update(methods={"own_noise": {}}, policies=["sft", "own_noise"])
    params["experiments"] = {"toy": {**next(iter(params["experiments"].values())), "model": "a dot", "env": {}}}
    params["experiments"]["toy"].update(paper_model=None)
    (tmp_path / "here").mkdir()
    (tmp_path / "here/params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


def test_they_run_from_demonstrations_to_the_report(lab: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{lab / 'lab'}", "PIRL_THREADS": "1", "PIRL_WORKERS": "1"}
    stages = [("curate", "", ""), ("sft", "0", ""), ("rl", "0", "own_noise")]
    stages += [("evaluate", "0", "sft"), ("evaluate", "0", "own_noise"), ("report", "", "")]
    for stage, seed, method in stages:
        words = command(stage, seed, method, experiment="toy")
        done = subprocess.run(words, cwd=lab / "here", env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    episodes = pd.read_parquet(lab / "here/outputs/evaluate/toy-own_noise-0/episodes.parquet")
    assert len(episodes) == 12
    page = (lab / "here/results/smoke/report.md").read_text()
    assert "| toy | a dot | OOD far |" in page and "own_noise" in page


@pytest.mark.parametrize(
    ("section", "key", "name", "words"),
    [
        ("env", "benchmark", "metawrld", r"unknown name 'metawrld'; did you mean 'metaworld'?"),
        ("env", "benchmark", "my_lab.rech", "no module my_lab.rech.facts can be imported; install it, or put"),
        ("policy", "backbone", "pi_05", "unknown name 'pi_05'; did you mean 'pi05'?"),
        ("policy", "backbone", "no_lab.dot", "no module no_lab.dot.family can be imported"),
        ("rl", "noise_rule", "my_lab.nothing", "no module my_lab.nothing can be imported"),
        ("rl", "noise_rule", "my_lab.", "unknown name 'my_lab.'"),
        ("rl", "noise_rule", "os.path", "os.path has no function weights(tau, delta, level)"),
        ("env", "benchmark", "./reach", "unknown name './reach'"),
        ("policy", "backbone", ".dot", "unknown name '.dot'"),
    ],
)
def test_a_name_of_nothing_is_told(
    section: str, key: str, name: str, words: str, lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pirl_core.errors import UserError

    monkeypatch.syspath_prepend(lab / "lab")
    path = lab / "here/params.yaml"
    load_params(path)
    params = yaml.safe_load(path.read_text())
    params[section][key] = name
    path.write_text(yaml.safe_dump(params))
    with pytest.raises(UserError) as told:
        load_params(path)
    assert f"{section}.{key}: {words}" in str(told.value)


def test_what_is_wrong_inside_a_part_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_rule.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(ModuleNotFoundError, match="nothing_of_this_name"):
        named.part("broken_rule", "broken_rule.x")


def test_params_load_no_simulator_and_no_network() -> None:
    code = "import sys; from pirl_core.params.file import load_params; from pathlib import Path; "
    code += "load_params(Path('params.yaml')); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "transformers", "mujoco", "metaworld", "mani_skill", "pybullet", "robosuite"}
