"""What a dataset says of itself: where its episodes lie, what they hold, which task each shows."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from pirl_core.data.lerobot import schema
from pirl_core.data.recorded import steps
from pirl_core.data.recorded.files import AGAIN, Layout, Recorded, damaged
from pirl_core.data.recorded.listing import listed
from pirl_core.data.recorded.rows import NUMBER
from pirl_core.data.recorded.tasks import in_own_words, plain, tasks_of, with_sentences
from pirl_core.errors import UserError
from pirl_core.facts import Facts, Task, facts_in
from pirl_core.params.errors import unknown
from pirl_core.params.sections import COLUMNS, Env
from pirl_core.readers.hub import HUB_ID, snapshot
from pirl_core.readers.text import read_json

ROWS = ("frame_index", NUMBER, "timestamp")
"""Columns of every LeRobot dataset that say which frame a row is."""
Names = Mapping[str, str | Sequence[str]]
NONE: Names = MappingProxyType({})


class Described(NamedTuple):
    """Fields as of ``Recorded``. info: of a file of steps, what ``steps.describe`` says in its place."""

    folder: Path
    repo: str | None
    commit: str | None
    info: dict[str, Any]
    layout: Layout | None

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Column → how it is stored."""
        found: dict[str, dict[str, Any]] = self.info["features"]
        return found


def describe(source: str, revision: str | None) -> Described:
    """The description of a dataset; of one on the hub that alone is downloaded.

    source: a folder, a file of steps, or a hub id. revision: branch, tag or commit on the hub. Raises UserError where
    there is no such dataset, and where it is of another version.
    """
    folder, repo, commit = find_dataset(source, revision)
    if folder.is_file():
        layout, said = steps.describe(folder)
        return Described(folder, None, None, said, layout)
    info = read_json(folder / schema.INFO, AGAIN)
    if not str(info.get("codebase_version")).startswith(("v2.", "v3.")):
        raise UserError(
            f"curate.dataset: {source} is LeRobot {info.get('codebase_version')}; give one of v2.0, v2.1 or v3.0"
        )
    features = info.get("features")
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise damaged(folder / schema.INFO, "'features' does not describe columns")
    return Described(folder, repo, commit, info, None)


def open_recorded(source: str, revision: str | None, env: Env, names: Names = NONE) -> Recorded:
    """Reads the dataset's description, as ``describe`` does.

    names: ``curate.columns``. Without a benchmark tasks and facts are the dataset's own. Raises UserError, beside what
    ``describe`` raises, where its files contradict one another, it lacks a column, or shows none of the sentences of a
    task.
    """
    said = describe(source, revision)
    facts = facts_in(env)
    columns = _columns(source, said, env, facts, names)
    if said.layout is None:
        shown = {camera: columns[camera][0] for camera in env.cameras}
        videos = {camera: own for camera, own in shown.items() if said.features[own]["dtype"] == "video"}
        episodes = listed(said.folder, said.info, videos)
        data = Recorded(*said[:4], columns, frozenset(videos), episodes, facts, env.tasks)
    else:
        info = said.info | {"fps": said.info["fps"] or facts.rate or 1.0}
        episodes, notes = steps.list_steps(said.folder, said.layout, _shown(source, said, env, facts))
        data = Recorded(said.folder, None, None, info, columns, frozenset(), episodes, facts, env.tasks,
                        said.layout, notes)  # fmt: skip
    if "sentence" in columns:
        data = with_sentences(data)
    if env.benchmark is None:
        own = _own_facts(source, data)
        data = data._replace(facts=own, tasks=own.expanded(map(plain, env.tasks)))
    data = in_own_words(data)
    return data._replace(episodes=tasks_of(source, data))


def _shown(source: str, said: Described, env: Env, facts: Facts) -> str:
    """The sentence of a file of steps: that of the one task, or what the file calls itself."""
    if env.benchmark is None:
        return str(said.info["name"])
    if len(env.tasks) > 1:
        raise UserError(
            f"curate.dataset: {source} shows one task and does not say which of env.tasks; give each task an experiment"
        )
    return facts.task(env.tasks[0]).sentences[0]


def lengths_of(facts: Facts) -> dict[str, int]:
    """How many numbers a frame has of each kind."""
    return {"state": len(facts.state), "action": len(facts.action), "environment": facts.object_state}


def _columns(source: str, described: Described, env: Env, facts: Facts, names: Names) -> dict[str, tuple[str, ...]]:
    """The columns that hold each camera, state, action and environment, of the right kind and size."""
    features, is_steps = described.features, described.layout is not None
    usual = _usual(described, env)
    known = [*env.cameras, *(one for one in COLUMNS if not (is_steps and one == "sentence"))]
    strange = [name for name in names if name not in known]
    if strange:
        raise UserError(f"curate.columns: {unknown(strange[0], known)}")
    columns = {what: _named(what, name, features, facts, names) for what, name in usual.items()}
    if is_steps and "environment" in columns and "environment" not in names:
        columns["environment"] = columns["state"]  # all that is told
    if "sentence" in names:
        columns["sentence"] = _tuple(names["sentence"])
    rows = () if is_steps else ROWS
    lacking = [(what, name) for what, own in [*columns.items(), ("", rows)] for name in own if name not in features]
    if lacking:
        what, name = lacking[0]
        remedy = f"; name the one of the {what} in curate.columns.{what}" if what else ""
        raise UserError(
            f"curate.dataset: {source} has no column '{name}'; it has {', '.join(sorted(features))}{remedy}"
        )
    sizes = lengths_of(facts)
    for what, own in columns.items():
        kinds, shapes = ([features[name].get(key) for name in own] for key in ("dtype", "shape"))
        said = f"curate.dataset: '{' + '.join(own)}' of {source}"
        if what in env.cameras and (len(own) > 1 or kinds[0] not in ("image", "video")):
            raise UserError(f"{said} is {' + '.join(map(str, kinds))}; images or videos are needed")
        if what in sizes and is_steps and not all(map(_is_number, kinds)):
            raise UserError(f"{said} holds {' + '.join(map(str, kinds))}, not numbers; store it as float32")
        if what in sizes:
            found = sum(map(_length, shapes))
            wanted = sizes[what] if env.benchmark is not None else found
            if found != wanted or not found:
                has = f"{facts.label} has {wanted} {what} numbers" if wanted else "lists of numbers are needed"
                has += f"; name others in curate.columns.{what}, or give another dataset"
                raise UserError(f"{said} is of shape {' + '.join(map(str, shapes))}; {has}")
    return columns


def _usual(said: Described, env: Env) -> dict[str, str]:
    """What each is called where nobody says otherwise: as LeRobot has it, or the layout of a file of steps."""
    usual = {camera: schema.IMAGE.format(camera=camera) for camera in env.cameras}
    usual |= {"state": schema.STATE, "action": schema.ACTION}
    if env.object_state:
        usual["environment"] = schema.ENVIRONMENT_STATE
    if said.layout is not None:
        root = said.layout.observations
        [*seen] = steps.observed(said.layout, said.features)
        usual |= {camera: f"{root}/{camera}" for camera in env.cameras}
        usual |= {"state": seen[0] if len(seen) == 1 else root, "action": steps.ACTIONS}
    return usual


def _named(what: str, usual: str, features: Mapping[str, Any], facts: Facts, names: Names) -> tuple[str, ...]:
    """The user's own name wins, then the usual one, then that of a dataset which the benchmark knows."""
    if what in names:
        return _tuple(names[what])
    known = [others[what] for others in facts.columns if what in others]
    return next((own for own in [(usual,), *known] if features.keys() >= {*own}), known[0] if known else (usual,))


def _tuple(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _own_facts(source: str, data: Recorded) -> Facts:
    """What the dataset tells in place of a benchmark: each sentence is a task, of one group."""
    sentences = list(dict.fromkeys(plain(episode.sentence) for episode in data.episodes))
    state, action = ([*_numbers(data, name)] for name in ("state", "action"))
    return Facts(
        label=source,
        tasks={sentence: Task((sentence,), "all") for sentence in sentences},
        groups=("all",),
        cameras=tuple(name for name in data.columns if name not in COLUMNS),
        shifts=(),
        state=tuple(state),
        object_state=len(state),
        action=tuple(action),
        rate=data.info["fps"],
        robot=str(data.info.get("robot_type") or "unknown"),
        action_range=None,
        sets={"all": tuple(sentences)},
    )


def _numbers(data: Recorded, what: str) -> Iterator[str]:
    """What the numbers of state or action are called: as info.json has it, be it under a heading, or by their place."""
    for name in data.columns[what]:
        feature = data.info["features"][name]
        length, names = _length(feature.get("shape")), feature.get("names")
        flat = [one for part in names.values() for one in part] if _is_headed(names) else names
        fits = isinstance(flat, list) and len(flat) == length and all(isinstance(one, str) for one in flat)
        yield from flat if fits and isinstance(flat, list) else (f"{name}.{at}" for at in range(length))


def _is_headed(names: object) -> bool:
    return isinstance(names, dict) and all(isinstance(part, list) for part in names.values())


def _is_number(dtype: object) -> bool:
    return dtype != "image" and np.dtype(str(dtype)).kind in "biuf"


def _length(shape: object) -> int:
    """Numbers of a vector or a scalar; 0 for what is neither."""
    match shape:
        case [int(length)]:
            return length
        case []:
            return 1
        case _:
            return 0


def find_dataset(source: str, revision: str | None) -> tuple[Path, str | None, str | None]:
    """Its folder or file of steps, and where it is on the hub its id and commit; no more than its description is
    downloaded.

    Raises UserError where there is none.
    """
    path = Path(source).expanduser()
    file = steps.file_of(path)
    if path.is_dir() or file is not None:
        if revision is not None:
            kind = "folder" if path.is_dir() else "file"
            raise UserError(
                f"curate.dataset_revision = {revision!r} needs a hub id, but {source} is a {kind}; set null"
            )
        return file or path, None, None
    if not HUB_ID.fullmatch(source):
        raise UserError(f"curate.dataset: {source} is no folder, and no hub id of the form owner/name; check the path")
    folder = snapshot(source, revision, ["meta/*"], repo_type="dataset")
    return folder, source, folder.name
