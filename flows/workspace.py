"""Parameters of a flow run: checked first; where they differ from params.yaml, run in a folder apart.

The user's params.yaml is never written. The folder ``.pirl/runs/<hash of the parameters>/`` is a workspace of its own
with the sources as they are now, uncommitted edits included, and with the original's cache, so that finished stages
come from there. The same parameters find the same folder again, and with it their checkpoints.
"""

import filecmp
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pirl_core.commands.runs import EVALUATIONS
from pirl_core.commands.status import RUNS
from pirl_core.errors import UserError
from pirl_core.files import write_text
from pirl_core.params.errors import unknown
from pirl_core.params.file import check_params, load_params, resolve
from pirl_core.params.preset import preset_values
from pirl_core.params.sections import Params
from pirl_core.readers.strict_yaml import read_yaml
from pirl_core.report.papers.beside import check_models
from pirl_core.stages.mend import RECORD, is_whole, read_record

SOURCES = ("dvc.yaml", ".dvcignore", "pyproject.toml")
WRITTEN = ("sources", "curate", "policy", "sft", "rl", "evaluate", "risk", "run", "report")
"""Below outputs/, what stages write."""


class Wish(NamedTuple):
    """Checked parameters. content: the parameter file as data; differs: from the user's params.yaml."""

    root: Path
    content: dict[str, Any]
    differs: bool


def check(
    root: Path, scale: str | None, overrides: Mapping[str, Any] | None, experiments: Sequence[str] | None
) -> Wish:
    """Raises UserError, in one line, for whatever would not run. Writes nothing."""
    if not (root / "dvc.yaml").is_file():
        raise UserError(f"{root}: no dvc.yaml here; run in the repository's root")
    own = root / "params.yaml"
    content = read_yaml(own) if scale is None else preset_values(scale)
    check_models(check_params(content, str(own if scale is None else f"scale {scale}")))
    for key, value in (overrides or {}).items():
        _override(content, key, value)
    differs = not own.is_file() or content != _read_or_empty(own)
    if differs:
        check_models(check_params(content, "parameters with scale and overrides"))
    known = [*content["experiments"], *content["risk"]["experiments"]]
    if experiments is not None and not experiments:
        raise UserError("experiments = []: name at least one, or leave it out for all")
    for name in experiments or ():
        if name not in known:
            raise UserError(unknown(name, known, f"experiment '{name}' is unknown"))
    return Wish(root, content, differs)


def open_workspace(wish: Wish) -> Path:
    """The folder to run in: the root, or one apart, made or brought up to date."""
    if not wish.differs:
        return wish.root
    text = yaml.safe_dump(wish.content, sort_keys=False, allow_unicode=True)
    folder = wish.root / RUNS / digest(wish)
    folder.mkdir(parents=True, exist_ok=True)
    sources = [wish.root / name for name in SOURCES if (wish.root / name).is_file()]
    sources += [path for path in (wish.root / "pirl_core").rglob("*") if path.is_file() and _is_source(path)]
    for path in sources:
        _copy(path, folder / path.relative_to(wish.root))
    kept = {folder / path.relative_to(wish.root) for path in sources}
    for path in [path for path in (folder / "pirl_core").rglob("*") if path.is_file() and path not in kept]:
        path.unlink()
    if not (folder / RECORD).exists() and is_whole(record := read_record(wish.root)):
        write_text(folder / RECORD, record.decode())
    _write_dvc_config(wish.root, folder)
    if not (folder / "params.yaml").exists():
        write_text(folder / "params.yaml", text)
    for name in _given_folders(load_params(folder / "params.yaml")):
        _link(wish.root, folder, name)
    return folder


def digest(wish: Wish) -> str:
    """What the parameters are called."""
    return hashlib.sha256(yaml.safe_dump(wish.content, allow_unicode=True).encode()).hexdigest()[:10]


def environment(wish: Wish, folder: Path, own: Mapping[str, str]) -> dict[str, str]:
    """Of a stage that runs in ``folder``: from one apart, too, it finds packages that lie in the root."""
    if not wish.differs:
        return dict(own)
    path = [str(folder.resolve()), str(wish.root.resolve()), own.get("PYTHONPATH", "")]
    return {**own, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def next_commands(wish: Wish, folder: Path) -> str:
    """What shows a run apart beside the repository's own."""
    params = load_params(folder / "params.yaml")
    methods = sorted(params.policies, key=lambda policy: policy == "sft")
    for name in (f"{experiment}-{method}" for experiment in params.experiments for method in methods):
        if all(any((place / EVALUATIONS).glob(f"{name}-*/episodes.parquet")) for place in (wish.root, folder)):
            return f"`pirl compare {name} {folder.name}:{name}`, or `pirl runs` for all that was tried"
    return "`pirl runs`"


def _override(content: dict[str, Any], key: str, value: object) -> None:
    *above, last = key.split(".")
    if key == "scale":
        raise UserError("overrides: 'scale' is a label; choose a scale with the parameter scale (--scale)")
    node: Any = content
    for depth, part in enumerate(above):
        node = node.get(part)
        if not isinstance(node, dict):
            raise UserError(f"overrides: {key}: params.yaml has no section {'.'.join(above[: depth + 1])}")
    if not above and last not in content:
        raise UserError(f"overrides: {key}: params.yaml has no such key; known: {', '.join(content)}")
    node[last] = value


def _read_or_empty(path: Path) -> dict[str, Any]:
    """A broken file of the user's does not matter where a scale replaces all of it."""
    try:
        return read_yaml(path)
    except UserError:
        return {}


def _is_source(path: Path) -> bool:
    return "__pycache__" not in path.parts and not path.name.endswith(".partial")


def _copy(source: Path, target: Path) -> None:
    """Only what differs: another flow with the same parameters may be running in there."""
    if target.is_file() and filecmp.cmp(source, target, shallow=False):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, temporary)
    temporary.replace(target)


def _given_folders(params: Params) -> Iterator[str]:
    """Folders, files of steps, or hub ids, that the parameters name."""
    for experiment in params.experiments:
        run = resolve(params, experiment)
        tokenizer = run.policy.tokenizer if run.policy.size == "full" else None
        yield from filter(None, (run.curate.dataset, run.policy.pretrained, tokenizer))


def _link(root: Path, folder: Path, name: str) -> None:
    """Let a folder or file of the root be found by its relative name from ``folder`` too. What is there stays."""
    path = Path(os.path.normpath(name))
    if path.is_absolute() or _is_written(path) or not (root / path).exists():
        return
    link = folder / path
    if link.is_symlink() and not link.exists():
        link.unlink()
    with suppress(FileExistsError):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(root / path)


def _is_written(path: Path) -> bool:
    """Whether it lies outside the workspace, or where a run writes: what came through a link would change the root."""
    first, second = (*path.parts, "", "")[:2]
    return first in ("", "..", "results", ".dvc", ".pirl") or (first == "outputs" and second in ("", *WRITTEN))


def _write_dvc_config(root: Path, folder: Path) -> None:
    """The original's settings; its cache; and no git of its own."""
    from configobj import ConfigObj
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        cache = str(repo.cache.local_cache_dir)
        # A path in a configuration is as seen from there; DVC has read it.
        remotes = {f'remote "{name}"': {"url": str(remote["url"])} for name, remote in repo.config["remote"].items()}
    config = ConfigObj()
    for name in ("config", "config.local"):
        config.merge(ConfigObj(str(root / ".dvc" / name)))
    config.merge({"core": {"no_scm": "true"}, "cache": {"dir": cache}, **remotes})
    (folder / ".dvc").mkdir(exist_ok=True)
    write_text(folder / ".dvc" / "config", "\n".join(config.write()) + "\n")
