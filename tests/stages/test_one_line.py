"""Whatever stands in a variable, in an argument or in the way: one line that names it, exit code 2, no traceback."""

import ast
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pirl_core.commands.cli import main as pirl
from pirl_core.commands.scale import main as scale
from pirl_core.console import speak
from pirl_core.errors import UserError
from pirl_core.report.show import main as show
from pirl_core.stages import launch
from pirl_core.stages.cli import report_main, stage_main
from pirl_core.stages.job import Job
from pirl_core.training.session import open_session
from tests import ROOT

REACHED = "the stage began"
WHOLE = ("PIRL_THREADS", "PIRL_WORKERS", "PIRL_PROCESSES", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
OURS = {*WHOLE[:3], "PIRL_CLUSTER", "PIRL_FRESH", "PIRL_SHARE", "PIRL_SHARDING", "PIRL_LAUNCH"}
FOLDERS = {"PIRL_CALVIN_ENV": "calvin", "PIRL_LIBERO_ASSETS": "libero", "PIRL_MANISKILL_ASSETS": "maniskill"}
GOOD = ["sft", "--experiment", "metaworld", "--seed", "0"]
# What a variable or an argument can hold: anything but NUL; bytes that are not UTF-8 come as surrogates.
words = st.text(st.characters(exclude_characters="\0", max_codepoint=0x2FFF) | st.just("\udcff"), max_size=12)
numbers = (
    st.integers(-(10**20), 10**20).map(str) | st.floats().map(str) | st.sampled_from(["²", "٣", "1_0", "9" * 5000])
)


@pytest.fixture
def here(tmp_path: Path, preset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace in which no variable of ours is set, and a stage that gets as far as to begin says so."""
    shutil.copy(preset, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    for name in (*OURS, *WHOLE):
        monkeypatch.delenv(name, raising=False)

    def begun(*_: object, **__: object) -> None:
        raise UserError(REACHED)

    monkeypatch.setattr(launch, "launch", begun)
    monkeypatch.setattr(launch, "subprocess", SimpleNamespace(Popen=begun))
    return tmp_path


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Set for a while; what a stage itself sets is undone as well."""
    before = dict(os.environ)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def line(argv: list[str], run: Any = None) -> str:
    """What a stage says that does not end well, in its one line."""

    def begin(_: Job) -> None:
        raise UserError(REACHED)

    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    with redirect_stderr(said):
        code = stage_main(argv[0], run or begin, argv[1:])
    said.seek(0)
    text = said.read()
    assert code == 2, text
    assert re.fullmatch(rf"pirl: {argv[0]}: [^\n]+\n", text), text
    return text


def test_every_variable_of_ours_is_tried_here() -> None:
    sources = [
        path.read_text(encoding="utf-8") for top in ("pirl_core", "flows") for path in (ROOT / top).rglob("*.py")
    ]
    # The key is no stage's: tests/serving/test_command.py tries it.
    assert set(re.findall(r"(?<!_)\bPIRL_[A-Z_]+\b", "".join(sources))) == OURS | set(FOLDERS) | {"PIRL_API_KEY"}


@pytest.mark.parametrize("name", [*sorted(OURS), *WHOLE[3:]])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=words | numbers | st.sampled_from(["0", "1", "2", "ddp", "fsdp", "'", '"', "\\", " ", "; touch x"]))
@example(value="'")
@example(value="1000000000")
def test_a_variable_is_taken_or_refused_by_name(name: str, value: str, here: Path) -> None:
    with variable(name, value):
        said = line(GOOD)
    assert REACHED in said or f"{name} = " in said, said
    assert not (here / "x").exists()


@pytest.mark.parametrize("name", WHOLE)
def test_a_number_is_taken_in_one_form_only(name: str, here: Path) -> None:
    """ASCII digits within bounds; int() would take much more."""
    for value in ("1", "2", "07"):
        with variable(name, value):
            assert REACHED in line(GOOD)
    for value in ("-1", "+1", " 1", "1_0", "٣", "²", "1e3", "0x1", "1.0", "9" * 5000, "10000000000"):
        with variable(name, value):
            assert f"{name} = " in line(GOOD)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("value", ["", "absent", "file", "file/below", "\udcff", "x" * 5000])
def test_a_folder_of_assets(name: str, value: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pirl_core.envs.assets import main

    (here / "file").write_text("")
    (here / "nothing").mkdir()
    with variable(name, str(here / value) if value else ""), variable("XDG_CACHE_HOME", str(here / "nothing")):
        code = main(["check", FOLDERS[name]])
    assert code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "changes", [{"--experiment": ""}, {"--seed": "9" * 30}, {"--params": ""}, {"--params": "/"}, {"--params": "\udcff"}]
)
def test_an_argument_of_a_stage(changes: dict[str, str], here: Path) -> None:
    given = {"--experiment": "metaworld", "--seed": "0"} | changes
    assert REACHED not in line(["sft", *(text for pair in given.items() for text in pair)])


@pytest.mark.parametrize("stage", ["rl", "evaluate"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=words)
@example(method="")
def test_only_a_known_method_runs(stage: str, method: str, here: Path) -> None:
    """The base under another name would be a result that nobody asked for."""
    if method.startswith("-") or method == "sft":
        return
    assert "--method: unknown name" in line([stage, *GOOD[1:], "--method", method])


def test_an_argument_of_the_other_commands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for odd in ("", "\udcff", "/", "absent", "x" * 5000, "a\nb", "9" * 30):
        calls = {
            "status": lambda odd=odd: pirl(["status", "--root", odd or "absent"]),
            "compare": lambda odd=odd: pirl(["compare", odd, odd]),
            "export": lambda odd=odd: pirl(["export", odd, odd, "--to", "lerobot"]),
            "scale": lambda odd=odd: scale(["--params", odd]),
        }
        for name, call in calls.items():
            if (name, odd) == ("status", "/"):
                continue
            code = call()
            said = capsys.readouterr().err
            assert (code, said.count("\n")) == (2, 1), (name, odd, said)


@pytest.mark.parametrize(
    ("argv", "needed"),
    [
        (GOOD, "curate@metaworld"),
        (["rl", *GOOD[1:], "--method", "flow_sde"], "sft@metaworld-0"),
        (["evaluate", *GOOD[1:], "--method", "sft"], "sft@metaworld-0"),
        (["evaluate", *GOOD[1:], "--method", "flow_noise"], "rl@metaworld-flow_noise-0"),
    ],
)
def test_a_stage_before_its_input_names_the_stage_to_run(argv: list[str], needed: str, here: Path) -> None:
    said = line(argv, import_module(f"pirl_core.stages.{argv[0]}").run)
    assert re.search(rf": outputs/\S+ is not there yet; run make stage STAGE={needed} first\n$", said), said


PLACES = (".pirl", ".pirl/lock", ".pirl/resume", ".pirl/tensorboard", "outputs", "outputs/policy",
          "outputs/sft", "outputs/run", "outputs/run/sft")  # fmt: skip


@pytest.mark.parametrize("kind", ["file", "link"])
@pytest.mark.parametrize("place", PLACES)
def test_something_in_the_way_is_named(place: str, kind: str, here: Path) -> None:
    def run(job: Job) -> None:
        outputs = Path("outputs/policy") / job.name, Path("outputs/sft") / job.name
        with open_session(job.stage, job.name, "mark", {}, job.supervision, 1, *outputs) as session:
            session.tracker.log(1, {"losses/x": 1.0}, ())
            session.checkpoints.save(1, lambda folder: None)

    (here / place).parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        (here / place).write_text("the user's")
    else:
        (here / place).symlink_to(Path(place).name)
    said = line(GOOD, run)
    assert f"sft: {place}" in said, said
    assert "move away what is in its place" in said
    assert (here / place).is_symlink() if kind == "link" else (here / place).read_text() == "the user's"


def test_something_in_the_way_of_the_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pirl_core.files import write_json

    (here / "results").write_text("the user's")
    assert report_main(lambda _: write_json(Path("results/smoke/metrics.json"), {}), []) == 2
    assert "report: results" in capsys.readouterr().err
    assert show([]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@settings(deadline=None)
@given(text=st.text(st.characters(max_codepoint=0x1FFFF, exclude_categories=()), max_size=40))
def test_every_encoding_takes_every_text(text: str) -> None:
    for encoding in ("ascii", "latin-1", "cp1252", "utf-8"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="pirl")
        stream.write(text)
        stream.flush()


def test_what_we_print_has_its_stand_in() -> None:
    """Every sign in a text that is no docstring."""
    used = set()
    for path in [*(ROOT / "pirl_core").rglob("*.py"), *(ROOT / "flows").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
                used |= {sign for sign in node.value if not sign.isascii()}
    stream = io.TextIOWrapper(raw := io.BytesIO(), encoding="ascii", errors="pirl")
    stream.write("".join(sorted(used)))
    stream.flush()
    unknown = [sign for sign in used if sign.encode("ascii", "pirl") == b"?"]
    assert used and not unknown, unknown
    assert b"?" not in raw.getvalue()


def test_speaking_changes_streams_that_a_test_or_a_notebook_puts_there_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    speak()


def test_an_ascii_terminal(here: Path) -> None:
    """A table, an error and a preset's name, each by a process of its own."""
    (here / ".pirl/status").mkdir(parents=True)
    code = "from pirl_core.training.track import Tracker\nwith Tracker('rl', 'm-0', 1, None) as tracker:"
    code += " tracker.warn(1, 'π')\n"
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    utf8 = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=here, check=True, env=utf8, stdout=subprocess.DEVNULL)
    for arguments, said in ((["status", "--all"], "warning: pi"), (["scale"], "metaworld")):
        command = [sys.executable, "-m", "pirl_core", *arguments]
        done = subprocess.run(command, cwd=here, env=ascii_only, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        assert said in done.stdout.decode("ascii")
