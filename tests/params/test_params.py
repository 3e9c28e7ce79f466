"""The parameter file: what is accepted, what is refused, and in which words."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pirl_core.commands import scale
from pirl_core.errors import UserError
from pirl_core.params.file import load_params, resolve
from pirl_core.params.preset import preset_names, preset_text
from pirl_core.stages.cli import report_main, stage_main
from pirl_core.stages.job import Job

Edit = Callable[[dict[str, Any]], Any]


def _drop(*path: str) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return edit


def _set(value: Any, *path: str) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return edit


def _groups_on_a_gpu(content: dict[str, Any]) -> None:
    env = {"benchmark": "put_on_plate", "tasks": ["put_on_plate"], "cameras": ["third_view"], "sim_backend": "gpu"}
    splits = {"id": {"tasks": None, "shift": "none", "episodes_per_task": 1}}
    content["experiments"]["metaworld"] |= {"env": env, "evaluate": {"splits": splits}}
    content["rl"]["env_groups"] = 2


# What is broken → words of the one line that the user reads.
BROKEN: dict[str, tuple[Edit, str]] = {
    "missing key": (_drop("rl", "gamma"), r"rl\.gamma: missing"),
    "missing section": (_drop("sft"), r": sft: missing"),
    "misspelt key": (_set(1, "rl", "actor_ir"), r"rl\.actor_ir = 1: unknown key; did you mean 'actor_lr'\?$"),
    "unknown section": (_set({}, "optimiser"), r"optimiser = \{\}: unknown key; known: scale, seeds"),
    "below range": (_set(-1, "rl", "actor_lr"), r"rl\.actor_lr = -1: must be greater than 0$"),
    "above range": (_set(1.5, "rl", "gamma"), r"rl\.gamma = 1\.5: must be less than or equal to 1"),
    "text for number": (_set("fast", "rl", "actor_lr"), r"rl\.actor_lr = \"fast\": must be a valid number"),
    "number for switch": (_set(1, "env", "fast_render"), r"env\.fast_render = 1: must be true or false"),
    "switch for number": (_set(True, "rl", "iterations"), r"rl\.iterations = true: must be a valid integer"),
    "fraction for count": (_set(2.5, "sft", "steps"), r"sft\.steps = 2\.5: must be a valid integer"),
    "not a number": (_set(float("nan"), "sft", "lr"), r"sft\.lr = NaN: must be"),
    "infinite": (_set(float("inf"), "sft", "lr"), r"sft\.lr = Infinity: must be"),
    "null": (_set(None, "report", "title"), r"report\.title = null: must be a valid string"),
    "unknown choice": (
        _set("sde", "rl", "noise_rule"),
        r"rl\.noise_rule: unknown name 'sde'; known: constant_sde, flow_cps, ",
    ),
    "trained tasks held out": (
        _set(
            {
                "id": {"tasks": None, "shift": "none", "episodes_per_task": 1},
                "ood_tasks": {"tasks": ["reach-v3", "plate-slide-v3"], "shift": "none", "episodes_per_task": 1},
            },
            "evaluate",
            "splits",
        ),
        r"evaluate\.splits\.ood_tasks\.tasks: plate-slide-v3 would be trained too",
    ),
    "odd image size": (_set(50, "env", "image_size"), r"env\.image_size = 50: must be a multiple of 16"),
    "unknown task": (
        _set(["reach-v2"], "env", "tasks"),
        r"env\.tasks: unknown .* 'reach-v2'; did you mean 'reach-v3'",
    ),
    "tasks of another benchmark": (
        _set("maniskill", "env", "benchmark"),
        r"env\.tasks: unknown ManiSkill task",
    ),
    "unknown ood task": (
        _set(["fly-v3"], "evaluate", "splits", "id", "tasks"),
        r"evaluate\.splits\.id\.tasks: unknown",
    ),
    "unknown set of tasks": (
        _set(["mt5"], "env", "tasks"),
        r"env\.tasks: unknown MetaWorld task 'mt5'; did you mean 'mt50'.*\?; sets of tasks: mt50, ml45, ml45_test$",
    ),
    "a task and its set": (_set(["ml45", "reach-v3"], "env", "tasks"), r"env\.tasks: lists reach-v3 twice"),
    "sets of a split that overlap": (
        _set(["ml45", "mt50"], "evaluate", "splits", "id", "tasks"),
        r"evaluate\.splits\.id\.tasks: lists assembly-v3 twice",
    ),
    "camera twice": (_set(["corner2", "corner2"], "env", "cameras"), r"env\.cameras: lists corner2 twice"),
    "blind": (_set([], "env", "cameras"), r": env: the policy would be blind"),
    "neither benchmark nor dataset": (
        _set(None, "env", "benchmark"),
        r"experiments\.metaworld: curate\.dataset = null: without env\.benchmark there is no script to show the tasks",
    ),
    "no benchmark to start in another way": (
        _set({"benchmark": None, "shift": "visual"}, "experiments", "metaworld", "env"),
        r"experiments\.metaworld\.env\.shift: 'visual': without a benchmark nothing is started; set none$",
    ),
    "columns of no dataset": (
        _set({"state": "state"}, "curate", "columns"),
        r"curate: columns are those of a dataset; set them to {}, or give dataset$",
    ),
    "a column for what there is not": (
        _set({"dataset": "me/mine", "columns": {"stat": "state"}}, "experiments", "metaworld", "curate"),
        r"experiments\.metaworld: curate\.columns\.stat: no such thing; did you mean 'state'\?$",
    ),
    "bad split name": (_set({}, "evaluate", "splits", "OOD"), r"evaluate\.splits\.OOD = .* name starts with a small"),
    "no id split": (_drop("evaluate", "splits", "id"), r"evaluate: splits needs the key 'id'"),
    "no seeds": (_set([], "seeds"), r"seeds = \[\]: "),
    "seed twice": (_set([3, 3], "seeds"), r"seeds: lists 3 twice"),
    "unknown policy": (
        _set(["sft", "flow_sd"], "policies"),
        r"policies: unknown name 'flow_sd'; did you mean 'flow_sde'",
    ),
    "method called sft": (_set({}, "methods", "sft"), r"methods\.sft: "),
    "unknown key of a method": (
        _set({"noise_levle": 1}, "methods", "flow_sde"),
        r"methods\.flow_sde\.noise_levle = 1: unknown key; did you mean 'noise_level'",
    ),
    "unknown key of an experiment": (
        _set({"actor": 1}, "experiments", "metaworld", "rl"),
        r"experiments\.metaworld\.rl\.actor = 1: unknown key",
    ),
    "bad value of an experiment": (
        _set({"actor_lr": -1}, "experiments", "metaworld", "rl"),
        r"experiments\.metaworld\.rl\.actor_lr = -1: must be greater than 0$",
    ),
    "bad value of a section in an experiment's section": (
        _set({"sac": {"batch_size": 0}}, "experiments", "metaworld", "rl"),
        r"experiments\.metaworld\.rl\.sac\.batch_size = 0: must be greater than",
    ),
    "a deeper override beside one that is wrong": (
        lambda content: [
            content["rl"]["sac"].update(batch_size=0),
            content["experiments"]["metaworld"].update(rl={"sac": {"temperature": 1.0}}),
        ],
        r"params\.yaml: rl\.sac\.batch_size = 0: must be greater than",
    ),
    "a deeper override beside one of a method that is wrong": (
        lambda content: [
            content["methods"]["flow_sde"].update(sac={"batch_size": 0}),
            content["experiments"]["metaworld"].update(rl={"sac": {"temperature": 1.0}}),
        ],
        r"methods\.flow_sde\.sac\.batch_size = 0: must be greater than",
    ),
    "override that clashes with its base": (
        _set({"replan": 99}, "experiments", "metaworld", "policy"),
        r"experiments\.metaworld\.policy: replan 99 exceeds horizon 10",
    ),
    "override that is no mapping": (
        _set(3, "experiments", "metaworld", "rl"),
        r"metaworld\.rl = 3: must be a mapping of keys",
    ),
    "group advantages normalised again": (
        _set({"algorithm": "grpo", "group_size": 8}, "methods", "flow_sde"),
        r"methods\.flow_sde: normalize_advantages is ppo's.*set it to false$",
    ),
    "noise turned too far": (
        _set({"noise_rule": "flow_cps", "mdp": "two_layer", "noise_level": 1.2}, "methods", "flow_sde"),
        r"methods\.flow_sde: noise_level 1\.2: flow_cps .* = 108°.*; give at most 1$",
    ),
    "groups of what moves as one": (
        _groups_on_a_gpu,
        r"metaworld: rl\.env_groups = 2: env\.sim_backend = gpu simulates all environments in one step; set it to 1$",
    ),
    "critic that learns nothing": (_set(0.0, "rl", "value_coef"), r"rl\.value_coef = 0\.0: must be greater than 0$"),
    "experiment without label": (_drop("experiments", "metaworld", "model"), r"experiments\.metaworld\.model: missing"),
    "a seed of 70 bits": (_set([2**70], "seeds"), r"a number of more than 64 bits"),
    "a seed of 40 bits": (_set([2**40], "seeds"), r"seeds\.0 = 1099511627776: must be less than 4294967296"),
    "more than fits": (
        _set(2**31, "sft", "batch_size"),
        r"sft\.batch_size = 2147483648: must be less",
    ),
    "more than there is time for": (_set(10**12, "sft", "steps"), r"sft\.steps = 1000000000000: must be less than or"),
    "beyond all sense": (
        _set(1e300, "rl", "actor_lr"),
        r"rl\.actor_lr = 1e\+300: must be less than or equal",
    ),
    "a name too long for a file": (_set({}, "methods", "m" * 65), r"methods\.m{65} = \"m*\.\.\.: .*at most 64"),
    "two problems": (lambda c: (_drop("rl", "gamma")(c), _set(-1, "sft", "lr")(c)), r" \(and 1 more\)$"),
}
# The same for files that YAML itself, or the file system, refuses.
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"is empty; it must hold"),
    "a list": (b"- 1\n", r"is no mapping"),
    "bad syntax": (b"scale: smoke\nrl: [1,\n", r"params\.yaml line 3: "),
    "tab": (b"rl:\n\tgamma: 1\n", r"line 2: "),
    "key twice": (b"rl:\n  gamma: 1\n  gamma: 2\n", r"line 3: the key 'gamma' is given twice; remove one"),
    "number as key": (b"rl:\n  1: 2\n", r"line 2: the key 1 is not a word"),
    "code": (b"rl: !!python/object/apply:os.getcwd []\n", r"line 1: a tag .*; leave it out"),
    "a set": (b"rl: !!set {gamma}\n", r"line 1: a tag .*; leave it out"),
    "holds itself": (b"rl: &rl\n  rl: *rl\n", r"nested deeper than 64 levels"),
    "endless": (b"rl: " + b"[" * 100_000, r"not valid YAML"),
    "latin-1": ("title: é".encode("latin-1"), r"is not UTF-8 text"),
}


@pytest.fixture
def here(tmp_path: Path, preset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a valid params.yaml and one output."""
    (tmp_path / "params.yaml").write_bytes(preset.read_bytes())
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "earlier").write_text("result")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _never(_: object) -> None:
    raise AssertionError("the stage began to work")


def _assert_refused(code: int, captured: tuple[str, str], here: Path, words: str) -> None:
    out, err = captured
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert re.search(words, err.rstrip("\n")), err
    assert [p.relative_to(here).as_posix() for p in sorted(here.rglob("*"))] == [
        "outputs",
        "outputs/earlier",
        "params.yaml",
    ]
    assert (here / "outputs" / "earlier").read_text() == "result"


@pytest.mark.parametrize("case", BROKEN)
def test_broken_parameters_are_refused_in_one_line(
    case: str, here: Path, preset: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit, words = BROKEN[case]
    content = yaml.safe_load(preset.read_text())
    edit(content)
    (here / "params.yaml").write_text(yaml.safe_dump(content))
    code = stage_main("curate", _never, ["--experiment", "metaworld"])
    _assert_refused(code, capfd.readouterr(), here, words)


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_parameters_are_refused_in_one_line(
    case: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text, words = UNREADABLE[case]
    (here / "params.yaml").write_bytes(text)
    _assert_refused(report_main(_never, []), capfd.readouterr(), here, words)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--experiment", "metaword", "--method", "flow_sde", "--seed", "0"], "'metaword'; did you mean 'metaworld'"),
        (
            ["--experiment", "metaworld", "--method", "flow_nose", "--seed", "0"],
            "'flow_nose'; did you mean 'flow_noise'",
        ),
        (["--experiment", "metaworld", "--method", "sft", "--seed", "0"], "--method: unknown name 'sft'"),
        (["--experiment", "metaworld", "--method", "flow_sde", "--seed", "7"], r"--seed 7 is not in 'seeds' \[0\]"),
    ],
)
def test_unknown_names_on_the_command_line_are_refused(
    argv: list[str], words: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _assert_refused(stage_main("rl", _never, argv), capfd.readouterr(), here, words)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["pirl_core.stages.curate", "--experiment", "nowhere"], "pirl: curate: --experiment: unknown name 'nowhere'"),
        (["pirl_core.stages.report", "--params", "absent.yaml"], r"pirl: report: absent\.yaml: no such file"),
    ],
)
def test_the_real_commands_refuse_too(command: list[str], words: str, here: Path, root: Path) -> None:
    environment = {"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, env=environment, check=False
    )
    _assert_refused(done.returncode, (done.stdout, done.stderr), here, words)


def test_numbers_as_people_and_dvc_write_them(here: Path) -> None:
    text = (here / "params.yaml").read_text()
    for written in ("1e-4", "1E-4", "1.0e-4", "+1e-04", "0.0001"):
        (here / "params.yaml").write_text(re.sub(r"actor_lr: \S+", f"actor_lr: {written}", text))
        assert load_params().rl.actor_lr == 1e-4
    (here / "params.yaml").write_text(re.sub(r"gamma: \S+", "gamma: 1", text))
    assert load_params().rl.gamma == 1.0


def test_overrides_merge_in_their_order(here: Path) -> None:
    content = yaml.safe_load((here / "params.yaml").read_text())
    content["rl"].update(gamma=0.1, noise_level=0.1, clip_ratio=0.1)
    content["methods"]["flow_sde"].update(gamma=0.2, noise_level=0.2)
    content["experiments"]["metaworld"]["rl"] = {"gamma": 0.3}
    content["experiments"]["metaworld"]["sft"] = {"steps": 7}
    (here / "params.yaml").write_text(yaml.safe_dump(content))
    params = load_params()
    rl = resolve(params, "metaworld", "flow_sde").rl
    assert (rl.gamma, rl.noise_level, rl.clip_ratio) == (0.3, 0.2, 0.1)
    rl = resolve(params, "metaworld").rl
    assert (rl.gamma, rl.noise_level, rl.clip_ratio) == (0.3, 0.1, 0.1)
    assert resolve(params, "metaworld").sft.steps == 7
    assert resolve(params, "metaworld", "flow_noise").env == params.env


def test_a_section_in_a_section_merges_key_by_key(here: Path) -> None:
    content = yaml.safe_load((here / "params.yaml").read_text())
    content["methods"]["flow_sde"]["sac"] = {"batch_size": 8, "temperature": 0.5}
    content["experiments"]["metaworld"]["rl"] = {"sac": {"temperature": 0.7}}
    (here / "params.yaml").write_text(yaml.safe_dump(content))
    params = load_params()
    merged = {"batch_size": 8, "temperature": 0.7}
    assert resolve(params, "metaworld", "flow_sde").rl.sac == params.rl.sac.model_copy(update=merged)
    assert resolve(params, "metaworld").rl.sac == params.rl.sac.model_copy(update={"temperature": 0.7})


def test_a_stage_cannot_read_what_it_does_not_declare(here: Path) -> None:
    with pytest.raises(AssertionError, match="stage curate reads section rl"):
        stage_main("curate", lambda job: print(job.run.rl.gamma), ["--experiment", "metaworld"])


def test_a_finished_stage_leaves_its_record(here: Path) -> None:
    jobs: list[Job] = []
    assert stage_main("evaluate", jobs.append, ["--experiment", "metaworld", "--method", "sft", "--seed", "0"]) == 0
    assert jobs[0].name == "metaworld-sft-0"
    record = yaml.safe_load((here / "outputs/run/evaluate/metaworld-sft-0.json").read_text())
    assert record["params"]["env"] == load_params().env.model_dump()
    assert set(record["params"]) == {"env", "evaluate"}
    assert record["wall_seconds"] >= 0
    assert record["peak_memory_mib"] > 10
    assert record["seeds"] == {"training": 0}
    assert record["versions"]["numpy"]


def test_stopping_a_stage_leaves_nothing_half_written(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from pirl_core.files import replace_folder

    def stopped(_: Job) -> None:
        with replace_folder(Path("outputs/curate/metaworld")) as folder:
            (folder / "half").write_text("")
            raise KeyboardInterrupt

    assert stage_main("curate", stopped, ["--experiment", "metaworld"]) == 130
    assert (
        capfd.readouterr().err
        == "pirl: curate: stopped; unfinished outputs were removed, a rerun goes on from the last checkpoint\n"
    )
    assert list(Path("outputs/curate").iterdir()) == []


@pytest.mark.parametrize("name", preset_names())
def test_every_scale_is_valid_and_written_by_its_name(name: str, here: Path) -> None:
    assert scale.main([name]) == 0
    assert load_params().scale == name


def test_switching_the_scale_keeps_the_users_edits(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = here / "params.yaml"
    edited = path.read_text().replace("gamma: 0.99", "gamma: 0.98")
    path.write_text(edited)
    assert scale.main(["laptop"]) == 2
    assert "params.yaml has edits that would be lost" in capfd.readouterr().err
    assert path.read_text() == edited
    assert scale.main(["laptop", "--force"]) == 0
    assert load_params().scale == "laptop"


def test_the_committed_parameters_are_the_laptop_preset(root: Path) -> None:
    assert (root / "params.yaml").read_text() == preset_text("laptop")


@pytest.mark.parametrize("name", preset_names())
def test_every_key_has_a_comment_that_explains_it(name: str) -> None:
    """A comment may cover a few keys that follow it, a blank line or a new section ends its reach."""
    lines = preset_text(name).splitlines()
    explained, bare = False, []
    for before, line in zip(["", *lines], lines, strict=False):
        if line.lstrip().startswith("#"):
            explained = True
        elif re.match(r"  [a-z]", line) and not line.startswith("   "):
            explained = explained and bool(before.strip())
            if not explained:
                bare.append(line)
    assert bare == []


def test_user_errors_are_one_line() -> None:
    with pytest.raises(UserError) as caught:
        load_params("/nonexistent/params.yaml")
    assert "\n" not in str(caught.value)
