"""What counts as a change of a stage's code, and which packages it loads."""

import subprocess
import sys
from pathlib import Path

import pytest

from pirl_core import named
from pirl_core.errors import UserError
from pirl_core.provenance.code import PACKAGE, UNCOUNTED, code_of
from pirl_core.provenance.data import folder_digest
from pirl_core.provenance.packages import versions
from tests import ROOT

BASE = '''"""A module."""
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SIZE = 3
"""Of it."""


def f(x: "Tensor", y=1) -> "Tensor":
    """A function."""
    # It adds.
    return x + y * SIZE
'''
SAME = {
    "comment": BASE.replace("# It adds.", "# It really adds."),
    "docstrings": BASE.replace('"""A function."""', '"""Adds. """')
    .replace('"""Of it."""\n', "")
    .replace("A module", "M"),
    "formatting": BASE.replace("return x + y * SIZE", "return (\n        x\n        + (y * SIZE)\n    )"),
    "types for checkers": BASE.replace(
        "from torch import Tensor", "from numpy import ndarray\n    from torch import Tensor"
    ),
    "quotes": BASE.replace('"Tensor"', "'Tensor'"),
}
OTHER = {
    "constant": BASE.replace("SIZE = 3", "SIZE = 4"),
    "sign": BASE.replace("x + y", "x - y"),
    "default": BASE.replace("y=1", "y=2"),
    "name": BASE.replace("SIZE", "WIDTH"),
    "order": BASE.replace("x + y * SIZE", "(x + y) * SIZE"),
    "raw text": BASE + "f('a')\n",
}


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def project(folder: Path, text: str) -> Path:
    return tree(folder, {f"{PACKAGE}/__init__.py": "", f"{PACKAGE}/stages/rl.py": text})


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_words_and_formatting_do_not_count(text: str, tmp_path: Path) -> None:
    assert text != BASE
    first, second = (code_of("rl", {}, project(tmp_path / name, body)) for name, body in (("a", BASE), ("b", text)))
    assert first.digest == second.digest


@pytest.mark.parametrize("text", OTHER.values(), ids=OTHER)
def test_what_it_does_counts(text: str, tmp_path: Path) -> None:
    first, second = (code_of("rl", {}, project(tmp_path / name, body)) for name, body in (("a", BASE), ("b", text)))
    assert first.digest != second.digest


def test_every_kind_of_import_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        f"{PACKAGE}/__init__.py": "",
        f"{PACKAGE}/stages/rl.py": f"from {PACKAGE} import a\n"
        f"def run():\n  import {PACKAGE}.b.c\n  from {PACKAGE}.d import f\n",
        f"{PACKAGE}/a.py": f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from {PACKAGE} import never\n",
        f"{PACKAGE}/b/__init__.py": "",
        f"{PACKAGE}/b/c.py": f"import {PACKAGE}.a\nimport numpy\n",
        f"{PACKAGE}/b/page.html": "<p>",
        f"{PACKAGE}/b/README.md": "",
        f"{PACKAGE}/d.py": f"def f(): Popen('from {PACKAGE}.e import main; main()')\n",
        f"{PACKAGE}/e.py": f"from {PACKAGE} import named\n"
        "named.part(named.RULES, x)\nnamed.part(named.BENCHMARKS, y, 'open')\n",
        f"{PACKAGE}/console.py": f"from {PACKAGE} import never\n",
        f"{PACKAGE}/never.py": "",
        f"{PACKAGE}/flow/rules/one.py": "",
        f"{PACKAGE}/flow/rules/two.py": "",
        "mine_of_test/__init__.py": "",
        "mine_of_test/bench/open.py": "from ..deep import x\nfrom . import near\n",
        "mine_of_test/bench/near.py": "",
        "mine_of_test/deep.py": "import pandas\n",
        "mine_of_test/unused.py": "",
    }
    tree(tmp_path, files)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = code_of("rl", {"noise_rules": ["one"], "benchmarks": ["mine_of_test.bench"]}, tmp_path)
    left_out = {"never.py", "two.py", "unused.py", "README.md", "console.py"}
    assert set(code.files) == {name for name in files if name.rpartition("/")[2] not in left_out}
    assert {"numpy", "pandas"} <= code.packages


def test_everything_that_a_stage_loads_counts(root: Path) -> None:
    """But for what changes no number; what its functions load later may be more."""
    command = "import sys, pirl_core.rl.train, pirl_core.envs.vector.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], cwd=root, capture_output=True, text=True, check=True)
    code = code_of("rl", {"benchmarks": ["metaworld"], "backbones": ["pi0"], "noise_rules": ["flow_sde"]}, root)
    loaded = {module for module in done.stdout.split() if module.split(".")[0] == PACKAGE}
    counted = {name for name in loaded if not any(f"{name}.".startswith(f"{PACKAGE}.{u}.") for u in UNCOUNTED)}
    paths = {name.replace(".", "/") for name in counted}
    assert {
        path for path in paths if f"{path}.py" not in code.files and f"{path}/__init__.py" not in code.files
    } == set()
    assert f"{PACKAGE}/stages/rl.py" in code.files


def test_what_does_not_count_is_there(root: Path) -> None:
    for name in UNCOUNTED:
        path = root / PACKAGE / name.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), name


@pytest.mark.parametrize("benchmark", named.known(named.BENCHMARKS, "facts"))
def test_an_experiment_counts_its_own_parts_alone(benchmark: str) -> None:
    """WidowX's two benchmarks share a table; π0.5 is made of π0's network, and SmolVLA takes its precision."""
    code = code_of("rl", {"benchmarks": [benchmark], "backbones": ["groot"], "noise_rules": ["flow_sde"]}, ROOT)
    parts = {name.split("/")[2] for name in code.files if name.startswith(f"{PACKAGE}/envs/") and name.count("/") > 2}
    shared = {"vector", "drawing", *(["put_on_plate"] if benchmark == "simpler" else [])}
    assert parts - shared == {benchmark}
    families = {name.split("/")[3] for name in code.files if "/families/" in name}
    assert families == {"__init__.py", "groot"}
    assert [name for name in code.files if "/rules/" in name and "__init__" not in name] == [
        f"{PACKAGE}/flow/rules/flow_sde.py"
    ]


def test_versions_of_all_that_is_loaded(root: Path) -> None:
    """What a process loads that trains on MetaWorld, Python's own and what only pytest brings left out."""
    code = code_of("rl", {"benchmarks": ["metaworld"], "backbones": ["pi0"], "noise_rules": ["flow_sde"]}, root)
    found = versions(code.packages, ["metaworld"])
    assert {"torch", "transformers", "tokenizers", "accelerate", "numpy", "mujoco", "metaworld", "gymnasium"} <= set(
        found
    )
    assert "dvc" not in found and "prefect" not in found
    assert versions(["no_such_package", "os"], ["no_such_extra"]) == {}


def test_a_folder_is_known_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = tree(tmp_path / "data", {"meta/info.json": "1", "data/0.parquet": "22"})
    (tmp_path / "far").mkdir()
    (tmp_path / "far/film.mp4").write_text("f")
    (data / "videos").symlink_to(tmp_path / "far")
    first = folder_digest(data)
    (data / "meta/info.json").touch()
    assert folder_digest(data) == first
    (data / ".cache").mkdir()
    (data / ".cache/x").write_text("x")
    assert folder_digest(data) == first
    seen = {first}
    (data / "meta/info.json").write_text("2")
    seen.add(folder_digest(data))
    (tmp_path / "far/film.mp4").write_text("g")
    seen.add(folder_digest(data))
    (data / "data/0.parquet").rename(data / "data/1.parquet")
    seen.add(folder_digest(data))
    (data / "data/1.parquet").unlink()
    seen.add(folder_digest(data))
    assert len(seen) == 5


def test_a_file_is_known_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (file := tmp_path / "steps.npz").write_text("1")
    first = folder_digest(file)
    file.touch()
    assert folder_digest(file) == first
    file.write_text("22")
    assert folder_digest(file) != first


def test_a_package_that_registers_a_world_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it imports of itself; under the name by which a task has it."""
    root = project(tmp_path / "project", "import json\n")
    tree(tmp_path / "lab", {"own_lab/__init__.py": "from own_lab.world import World\n", "own_lab/world.py": BASE})
    monkeypatch.syspath_prepend(tmp_path / "lab")
    before = code_of("rl", {"worlds": ("own_lab",)}, root)
    assert {"own_lab/__init__.py", "own_lab/world.py"} <= set(before.files)
    assert "own_lab/world.py" not in code_of("rl", {}, root).files


def test_a_file_that_is_a_hole_is_refused_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = tree(tmp_path / "data", {"meta/info.json": "1"})
    with (data / "meta/info.json").open("r+") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match=r"info\.json: 1099511627776 bytes, .* it is a hole; take it out of the folder"):
        folder_digest(data)


def test_what_lies_beside_a_lone_module_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the working folder has dvc.lock and outputs beside it; data in a package of its own count."""
    root = project(tmp_path / "project", "import json\n")
    here = tree(
        tmp_path / "here", {"lone_world.py": BASE, "dvc.lock": "a", "boxed/__init__.py": BASE, "boxed/a.xml": "a"}
    )
    monkeypatch.syspath_prepend(here)
    found = code_of("rl", {"worlds": ("lone_world", "boxed")}, root).files
    assert {"lone_world.py", "boxed/__init__.py", "boxed/a.xml"} <= set(found) and "dvc.lock" not in found
