"""The stages of dvc.yaml, matrix items expanded, in an order in which each comes after what it needs."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pirl_core.errors import UserError


class Stage(NamedTuple):
    """address: as DVC calls it, ``rl@metaworld-flow_sde-0``. needs: addresses of the stages whose outputs it reads.

    stale: it, or one that it needs directly or not, would run. False is certain, True may still turn out unchanged.
    """

    address: str
    needs: tuple[str, ...]
    stale: bool

    @property
    def kind(self) -> str:
        return self.address.partition("@")[0]

    @property
    def experiment(self) -> str:
        """Empty for the report, which looks at all. Names of experiments have no dash."""
        return self.address.partition("@")[2].partition("-")[0]


FIRST = "sources"
"""Runs before any stage is judged, since the others depend on what it finds in the code; DVC never skips it."""


def look_at_sources(folder: Path, variables: Mapping[str, str]) -> None:
    """Run the stage that tells DVC which code has changed. variables: of its environment. Raises UserError with its
    line."""
    command = dvc("repro", "--single-item", FIRST)
    done = subprocess.run(
        command, cwd=folder, env=with_own_python({**variables}), capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.splitlines()
        said = [line.partition(f"{FIRST}: ")[2] for line in lines if line.startswith(f"pirl: {FIRST}: ")]
        raise UserError((said or lines or [f"stage {FIRST} failed"])[0])


def read_graph(folder: Path) -> list[Stage]:
    """All but the stage ``FIRST``. Raises UserError where DVC cannot read dvc.yaml."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from networkx import lexicographical_topological_sort

    try:
        with Repo(str(folder)) as repo:
            graph = repo.index.graph
            order = list(lexicographical_topological_sort(graph.reverse(), key=_address))
            order = [stage for stage in order if _address(stage) != FIRST]
            needs = {
                stage: tuple(sorted({_address(need) for need in graph.successors(stage)} - {FIRST})) for stage in order
            }
            try:
                changed = set(repo.status())
            except DvcException:
                # Another DVC writes in this workspace: ask stage by stage then, DVC waits where it has to.
                changed = {stage.addressing for stage in order}
    except DvcException as error:
        raise UserError(" ".join(f"dvc.yaml: {error}; try `dvc stage list`".split())) from None
    stages: dict[str, Stage] = {}
    for stage in order:
        stale = stage.addressing in changed or any(stages[need].stale for need in needs[stage])
        stages[_address(stage)] = Stage(_address(stage), needs[stage], stale)
    return list(stages.values())


def dvc(*words: str) -> list[str]:
    """A command of DVC's that waits while another one writes."""
    return [sys.executable, "-m", "pirl_core.commands.dvc", "--wait-for-lock", *words]


def with_own_python(variables: dict[str, str]) -> dict[str, str]:
    """dvc.yaml says `python`: let it be this environment's, activated or not."""
    own = str(Path(sys.executable).parent)
    path = variables.get("PATH", os.defpath)
    return variables if own in path.split(os.pathsep) else {**variables, "PATH": f"{own}{os.pathsep}{path}"}


def _address(stage: Any) -> str:
    """As `dvc repro` takes it in the workspace's own folder; DVC's own ``addressing`` looks from where we are."""
    if stage.path_in_repo == "dvc.yaml":
        return str(stage.name)
    return f"{stage.path_in_repo}:{stage.name}" if getattr(stage, "name", None) else str(stage.path_in_repo)


def select(stages: Sequence[Stage], experiments: Collection[str] | None) -> list[Stage]:
    """The stages of these experiments; and what looks at all experiments, if it then finds all of them done."""
    chosen: dict[str, Stage] = {}
    by_address = {stage.address: stage for stage in stages}
    for stage in stages:
        if experiments is None or stage.experiment in experiments:
            chosen[stage.address] = stage
        elif not stage.experiment:
            missing = [need for need in stage.needs if need not in chosen and by_address[need].stale]
            if not missing:
                chosen[stage.address] = stage
    return list(chosen.values())


def longest_first(stages: Sequence[Stage]) -> list[Stage]:
    """In the order in which to start them: first those with the longest chain of stages that wait for them."""
    after: Counter[str] = Counter()
    for stage in reversed(stages):
        for need in stage.needs:
            after[need] = max(after[need], after[stage.address] + 1)
    return sorted(stages, key=lambda stage: -after[stage.address])


def beside(stages: Sequence[Stage], address: str) -> list[Stage]:
    """The stages that could run at the same time as this one: neither before it nor after it."""
    above: dict[str, set[str]] = {}
    for stage in stages:
        above[stage.address] = set(stage.needs).union(*(above[need] for need in stage.needs))
    return [
        stage
        for stage in stages
        if stage.address != address and stage.address not in above[address] and address not in above[stage.address]
    ]
