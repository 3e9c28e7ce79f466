"""Presets over their base, and sets of tasks: what is written is whole, and equal to what is meant."""

import shutil
from pathlib import Path

import pytest
from metaworld.env_dict import ML45_V3

from pirl_core import named
from pirl_core.commands import repro, scale
from pirl_core.envs.calvin.facts import SCRIPTED
from pirl_core.facts import facts_of
from pirl_core.params import preset
from pirl_core.params.file import load_params, resolve
from pirl_core.params.preset import load_preset, preset_names, preset_text, preset_values
from pirl_core.readers.strict_yaml import parse_yaml

# Of the base and the scales together, and of a part of the paper's rows, which extends one of them.
MOST_LINES, MOST_LINES_OF_A_PART = 1400, 60


def comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.lstrip().startswith("#")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of presets, the base alone in it; the working folder is another."""
    presets = tmp_path / "presets"
    presets.mkdir()
    shutil.copy(preset.BASE, presets)
    monkeypatch.setattr(preset, "PRESETS", presets)
    monkeypatch.setattr(preset, "BASE", presets / "base.yaml")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return presets


def test_presets_are_short() -> None:
    lines = {path.stem: len(path.read_text().splitlines()) for path in preset.PRESETS.iterdir()}
    parts = {name for name in lines if name.startswith("paper_")}
    assert sum(count for name, count in lines.items() if name not in parts) < MOST_LINES
    assert max(lines[name] for name in parts) < MOST_LINES_OF_A_PART


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_written_whole(name: str) -> None:
    """Its values, the base's comments and its own, each once and in their order."""
    text = preset_text(name)
    assert parse_yaml(text, name) == preset_values(name)
    content = (preset.PRESETS / f"{name}.yaml").read_text()
    own = comments(content)
    if "\nextends: " in content:  # what it takes of the other stands elsewhere
        assert set(own) <= set(comments(text))
        return
    left = iter(comments(text))
    assert all(line in left for line in own)
    # The base's comments within a value go with the value that a preset replaces.
    base = [line for line in comments(preset.BASE.read_text()) if not line.startswith("  # Flow-")]
    left = iter(comments(text))
    assert all(line in left for line in base)
    assert all(comments(text).count(line) == 1 for line in {*own, *base})


@pytest.mark.parametrize("name", preset_names())
def test_a_whole_parameter_file_is_a_preset_too(name: str, folder: Path) -> None:
    path = folder / f"{name}.yaml"
    shutil.copytree(Path(preset.__file__).parent / "presets", folder, dirs_exist_ok=True)
    values = preset_values(name)
    path.write_text(preset_text(name))
    assert preset_values(name) == values
    assert parse_yaml(preset_text(name), name) == values


OWN = """\
# What it is for.

scale: own
experiments:
  first:
    model: mine
    # Beside nothing.
    paper_model: null
    # Half of it.
    rl: {gamma: 0.5}
  second:
    model: another
    paper_model: pi0

rl:
  # A reason.
  actor_lr: 1e-5

env:
  tasks: [ml45, door-lock-v3]
"""


def test_a_preset_of_ones_own_is_found_by_its_file(folder: Path) -> None:
    (folder / "own.yaml").write_text(OWN)
    assert scale.main(["own"]) == 0
    text = Path("params.yaml").read_text()
    assert "\n# What it is for.\n\n# The name of the scale" in text
    assert "  # Peak learning rates of the policy and of the critic.\n  # A reason.\n  actor_lr: 1e-5\n" in text
    assert "    model: mine\n    # Beside nothing.\n    paper_model: null\n    env: {}\n" in text
    assert "    sft: {}\n    # Half of it.\n    rl: {gamma: 0.5}\n    evaluate: {}\n  second:\n" in text
    params = load_params()
    assert list(params.experiments) == ["first", "second"] and params.rl.gamma == 0.97
    assert (resolve(params, "first").rl.gamma, resolve(params, "second").rl.actor_lr) == (0.5, 1e-5)
    assert params.env.tasks == [*facts_of("metaworld").sets["ml45"], "door-lock-v3"]
    Path("params.yaml").write_text(text.replace("1e-5", "2e-5"))
    assert scale.main(["own"]) == 2 and scale.main([]) == 0


FURTHER = """\
# What else.

scale: further
extends: own
experiments: [second]
seeds: [4, 5]

rl:
  # A better one.
  actor_lr: 2e-5
  sac:
    # Less of them.
    batch_size: 32
"""


def test_a_preset_may_extend_another(folder: Path) -> None:
    """Its changes are on top, its comments in the place of the other's, and it takes what it names of experiments."""
    (folder / "own.yaml").write_text(OWN)
    (folder / "further.yaml").write_text(FURTHER)
    values = preset_values("own")
    kept = {"second": values["experiments"]["second"]}
    rl = values["rl"] | {"actor_lr": 2e-5, "sac": values["rl"]["sac"] | {"batch_size": 32}}
    assert preset_values("further") == values | {"scale": "further", "seeds": [4, 5], "experiments": kept, "rl": rl}
    text = preset_text("further")
    assert "# What else.\n" in text and "  # A better one.\n  actor_lr: 2e-5\n" in text
    assert "    # Less of them.\n    batch_size: 32\n    target_rate:" in text
    assert not {"# What it is for.", "  # A reason.", "    # Beside nothing."} & set(text.splitlines())


BROKEN = {
    "unknown key": ("rl: {actor_ir: 1}\n", "own.yaml: rl.actor_ir = 1: unknown key; did you mean 'actor_lr'?"),
    "unknown key of an experiment": (
        "experiments:\n  e:\n    model: m\n    paper_model: null\n    reel: {}\n",
        "own.yaml: experiments.e.reel = {}: unknown key; did you mean 'rl'?",
    ),
    "an experiment without a label": ("experiments:\n  e:\n    paper_model: null\n", "experiments.e.model: missing"),
    "no mapping": ("rl: 3\n", "own.yaml: rl = 3: must be a"),
    "no such experiments": ("experiments: [e]\n", "own.yaml: experiments: unknown name 'e'; known: metaworld"),
    "no experiments": ("experiments: 1\n", "own.yaml: experiments = "),
    "extends none": ("extends: laptob\n", "scale = 'laptob': no such preset"),
    "extends itself": ("extends: own\n", "own.yaml: extends = own: presets extend each other in a circle"),
    "no experiment": ("experiments:\n  e: 3\n", "own.yaml: experiments.e = 3"),
    "another name": ("scale: laptop\n", "own.yaml: scale = laptop: must be the file's name, own"),
    "no YAML": ("rl: [\n", "own.yaml line"),
    "a section on one line": ("rl: {actor_lr: 0.1}\n", "give each key a line, behind two spaces in a section"),
    "four spaces": ("rl:\n    actor_lr: 0.1\n", "give each key a line, behind two spaces in a section"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_preset_is_one_line(case: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Before anything is written."""
    content, said = BROKEN[case]
    (folder / "own.yaml").write_text(content if "scale" in content else f"scale: own\n{content}")
    assert scale.main(["own"]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0], lines
    assert not Path("params.yaml").exists()


def test_a_row_of_the_paper_is_looked_up_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").touch()
    Path("params.yaml").write_text(preset_text("smoke").replace("paper_model: pi0", "paper_model: pi6"))
    assert (scale.main([]), repro.main([])) == (2, 2)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2
    assert all("experiments.metaworld.paper_model: unknown name 'pi6'; did you mean 'pi0" in line for line in said)


def test_sets_of_tasks_are_the_published_ones() -> None:
    sets = facts_of("metaworld").sets
    assert sets["mt50"] == tuple(sorted(sets["mt50"])) == tuple(facts_of("metaworld").tasks)
    assert set(sets["ml45"]) == set(ML45_V3["train"]) and sets["ml45"] == tuple(sorted(sets["ml45"]))
    assert sets["ml45_test"] == tuple(ML45_V3["test"])
    for suite, size in {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10}.items():
        assert facts_of("libero").sets[suite] == tuple(f"{suite}_{number}" for number in range(size))
    assert facts_of("calvin").sets["B/scripted"] == tuple(f"B/{name}" for name in SCRIPTED) and len(SCRIPTED) == 17


@pytest.mark.parametrize("benchmark", named.known(named.BENCHMARKS, "facts"))
def test_a_set_is_of_tasks_and_is_called_like_none(benchmark: str) -> None:
    facts = facts_of(benchmark)
    assert not set(facts.sets) & set(facts.tasks)
    assert all(tasks and len(set(tasks)) == len(tasks) for tasks in facts.sets.values())
    assert {task for tasks in facts.sets.values() for task in tasks} <= set(facts.tasks)


def test_whoever_resolves_sees_tasks_and_no_sets() -> None:
    params = load_preset("paper")
    for experiment in params.experiments:
        run = resolve(params, experiment)
        known = set(facts_of(run.env.benchmark).tasks)
        assert known.issuperset(run.env.tasks)
        assert all(known.issuperset(split.tasks or []) for split in run.evaluate.splits.values())
    assert resolve(params, "metaworld_ml45").evaluate.splits["ood_tasks"].tasks == [
        "bin-picking-v3", "box-close-v3", "hand-insert-v3", "door-lock-v3", "door-unlock-v3"
    ]  # fmt: skip
