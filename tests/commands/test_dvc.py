"""DVC as `make` and the flow start it: the same, without its advice."""

import subprocess
import time
from pathlib import Path

import psutil

from pirl_core.stages.alive import runs_dvc
from tests.flows.workspace import PYTHON, environment, make_workspace, words_of


def test_dvc_gives_no_advice_and_is_known_for_dvc(tmp_path: Path) -> None:
    """In a git repository, where DVC's own command tells which files to add and where to push them."""
    folder = make_workspace(tmp_path)
    config = folder / ".dvc/config"
    config.write_text(config.read_text().replace("    no_scm = true\n", ""))
    (folder / ".gitignore").write_text("/outputs/\n")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    printed = {}
    for module, stage in (("dvc", "curate@a"), ("pirl_core.commands.dvc", "sft@a-0")):
        words = [PYTHON, "-m", module, "repro", stage]
        with subprocess.Popen(
            words, cwd=folder, env=environment(folder), stdout=-1, stderr=subprocess.STDOUT, text=True
        ) as process:
            started = psutil.Process(process.pid)
            # Between fork and exec it has none.
            while not words_of(started) and process.poll() is None:
                time.sleep(0.01)
            assert runs_dvc(started)
            printed[module] = process.communicate(timeout=120)[0]
        assert process.returncode == 0, printed
        assert f"Running stage '{stage}'" in printed[module]
    for advice in ("git add", "dvc push", "autostage"):
        assert advice in printed["dvc"]
        assert advice not in printed["pirl_core.commands.dvc"]
    assert printed["pirl_core.commands.dvc"].endswith("Updating lock file 'dvc.lock'\n")
