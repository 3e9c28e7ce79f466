"""README against the code: what it names exists, and what it must name is there."""

import ast
import itertools
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from pirl_core.params.file import Run
from pirl_core.params.sections import Params
from tests.readme_results import block, render

METRIC = re.compile(r'["`]((?:losses|charts|validation|time)/\w+)["`]')


@pytest.fixture
def readme(root: Path) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def section(readme: str, title: str) -> str:
    return re.split(r"^## ", readme.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


def code(readme: str) -> list[str]:
    """Lines of fenced blocks, and inline code."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", readme, flags=re.MULTILINE | re.DOTALL))
    return [line for block in fenced for line in block.splitlines()] + inline


def definitions(path: Path) -> set[str]:
    """Functions and classes of a module, methods as Class.method."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


def test_paths_and_definitions_exist(readme: str, root: Path) -> None:
    spans = code(readme)
    tables = section(readme, "Where each equation lives")
    assert len(set(re.findall(r"`[\w/]+\.py:[\w.]+`", tables))) > 20
    place = re.compile(r"((?:pirl_core|tests)/[\w/]+\.\w+)(?::([\w.]+))?")
    for path, name in itertools.chain(*(place.findall(span) for span in spans)):
        assert (root / path).is_file(), path
        assert not name or name in definitions(root / path), f"{path}:{name}"
    for module in set(itertools.chain(*(re.findall(r"python -m (pirl_core[\w.]*\w)", span) for span in spans))):
        path = root.joinpath(*module.split("."))
        assert path.is_dir() or path.with_suffix(".py").is_file(), module


def test_every_equation_has_its_place(readme: str) -> None:
    table = section(readme, "Where each equation lives")
    rows = re.findall(r"^\| Eq\. (\d+)(?:(?: to |, )(\d+))?", table, re.MULTILINE)
    listed = [number for low, high in rows for number in range(int(low), int(high or low) + 1)]
    assert listed == list(range(3, 17))


def test_the_glossary_is_what_the_code_logs(readme: str, root: Path) -> None:
    logged = set()
    for path in (root / "pirl_core").rglob("*.py"):
        logged |= set(METRIC.findall(path.read_text(encoding="utf-8")))
    assert set(METRIC.findall(section(readme, "Metric glossary"))) == logged
    assert set(METRIC.findall(readme)) == logged


def test_make_targets_and_scales_exist(readme: str, root: Path) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    spans = code(readme)
    named = {name for span in spans for name in re.findall(r"^make ([a-z-]+)", span)}
    assert {"reproduce", "test", "help"} <= named <= targets
    scales = {name for span in spans for name in re.findall(r"SCALE=(\w+)", span)}
    assert scales <= {path.stem for path in (root / "pirl_core/params/presets").glob("*.yaml")}
    variables = {name for span in spans for name in re.findall(r"PIRL_\w+", span)}
    source = "".join(path.read_text(encoding="utf-8") for path in (root / "pirl_core").rglob("*.py"))
    assert variables
    assert variables == set(re.findall(r"\bPIRL_[A-Z_]+\b", source))


def test_parameters_exist(readme: str, root: Path) -> None:
    """`rl.actor_lr` and the like are keys of their section; stages in commands are stages of the default experiment."""
    names = (*Run._fields, "report")
    sections = {name: field.annotation for name, field in Params.model_fields.items() if name in names}
    parameter = re.compile(rf"^({'|'.join(names)})\.(\w+)(?::|$)")
    for name, key in itertools.chain(*(parameter.findall(span) for span in code(readme))):
        if key != "py":
            assert key in sections[name].model_fields, f"{name}.{key}"  # type: ignore[union-attr]
    params = yaml.safe_load((root / "pirl_core/params/presets/laptop.yaml").read_text(encoding="utf-8"))
    for experiment, method, seed in re.findall(r"rl@(\w+)-(\w+)-(\d+)", readme):
        assert experiment in params["experiments"]
        assert method in params["methods"]
        assert int(seed) in params["seeds"]


def test_results_and_licence_are_in_place(readme: str, root: Path) -> None:
    """README shows what the same commit has in results/; a run of one's own leaves other results there."""
    show = [["git", "show", f"HEAD:{name}"] for name in ("README.md", "results/report.md", "results/run.json")]
    done = [subprocess.run(command, cwd=root, capture_output=True, text=True, check=False) for command in show]
    if any(each.returncode for each in done):
        pytest.skip("no git repository")
    page, report, runs = (each.stdout for each in done)
    assert block(page) == render(report, runs), "run python -m tests.readme_results"
    assert "![" in readme.split("## ")[0]
    assert "Apache License" in (root / "LICENSE").read_text(encoding="utf-8")
