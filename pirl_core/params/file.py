"""Reads and checks params.yaml, and merges its overrides.

An experiment (one benchmark, one model) is an entry of ``experiments`` that overrides the base sections; a method is an
entry of ``methods`` that overrides ``rl``. For RL the order is ``rl`` < ``methods.M`` < ``experiments.E.rl``. Section
``risk`` has experiments and methods of its own, which are whole and override nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from pirl_core.errors import UserError
from pirl_core.facts import Facts, facts_of
from pirl_core.params.errors import Layer, describe, unknown, unknown_keys_first
from pirl_core.params.merging import merged
from pirl_core.params.sections import (
    COLUMNS,
    Curate,
    Env,
    Evaluate,
    Params,
    Policy,
    Risk,
    Rl,
    Section,
    Sft,
    Split,
    split_label,
)
from pirl_core.params.sections.env import check_backend, check_names, tasks_of
from pirl_core.readers.strict_yaml import read_yaml


class Run(NamedTuple):
    """The sections as one experiment and one method see them, overrides merged."""

    env: Env
    curate: Curate
    policy: Policy
    sft: Sft
    rl: Rl
    evaluate: Evaluate


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read and check the whole file, every experiment with every method included.

    Raises UserError in one line: the first problem's dotted key, its value, the remedy; and how many more there are.
    """
    return check_params(read_yaml(Path(path)), str(path))


def check_params(content: dict[str, Any], place: str) -> Params:
    """The same of values that stand in no file yet. place: what the line begins with."""
    try:
        params = Params.model_validate(content)
        problems: list[str] = []
    except ValidationError as error:
        problems = [describe(e, [((), None)], Params) for e in unknown_keys_first(error)]
    if not problems:
        problems = list(dict.fromkeys(_override_problems(params)))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(f"{place}: {problems[0]}{more}")
    return params


def resolve(params: Params, experiment: str, method: str | None = None) -> Run:
    """The sections of one experiment; for RL ``rl`` < ``methods.method`` < ``experiments.experiment.rl``.

    An override replaces the whole value of its key; the section ``rl.sac`` is merged key by key. Sets of tasks are
    gone: each stands as its tasks. Raises UserError for a name that params.yaml does not have.
    """
    if experiment not in params.experiments:
        raise UserError(f"--experiment: {unknown(experiment, params.experiments)}")
    if method is not None and method not in params.methods:
        raise UserError(f"--method: {unknown(method, params.methods)}")
    sections: Any = [_merge(model, layers) for model, layers in _layers(params, experiment, method)]
    run = Run(*sections)
    facts = facts_of(run.env.benchmark)
    splits, watch = _without_sets(run.evaluate.splits, facts), _without_sets(run.rl.watch, facts)
    return run._replace(
        evaluate=run.evaluate.model_copy(update={"splits": splits}), rl=run.rl.model_copy(update={"watch": watch})
    )


def resolve_risk(params: Params, experiment: str, method: str) -> Risk:
    """The section with this world and this way to explore alone. Raises UserError for a name that it does not have."""
    risk = params.risk
    if experiment not in risk.experiments:
        raise UserError(f"--experiment: {unknown(experiment, risk.experiments)}")
    if method not in risk.methods:
        raise UserError(f"--method: {unknown(method, risk.methods)}")
    chosen = {"experiments": {experiment: risk.experiments[experiment]}, "methods": {method: risk.methods[method]}}
    return risk.model_copy(update=chosen)


S = TypeVar("S", bound=Section)


def _layers(params: Params, experiment: str, method: str | None) -> Iterator[tuple[type[Section], list[Layer]]]:
    """Per section of Run: its class and (dotted place, values) from the base section to the strongest override."""
    for name in Run._fields:
        base: Section = getattr(params, name)
        layers: list[Layer] = [((name,), base.model_dump())]
        if name == "rl" and method is not None:
            layers.append((("methods", method), params.methods[method]))
        layers.append((("experiments", experiment, name), getattr(params.experiments[experiment], name)))
        yield type(base), layers


def _merge(model: type[S], layers: Sequence[Layer]) -> S:
    found: dict[str, Any] = {}
    for _, values in layers:
        found = merged(model, found, values or {})
    return model.model_validate(found)


def _without_sets(splits: Mapping[str, Split], facts: Facts) -> dict[str, Split]:
    """A split does not tell its benchmark, so its sets of tasks are looked up here."""
    return {
        name: split if split.tasks is None else split.model_copy(update={"tasks": facts.expanded(split.tasks)})
        for name, split in splits.items()
    }


def _override_problems(params: Params) -> Iterator[str]:
    for experiment in params.experiments:
        for method in (None, *params.methods):
            for model, layers in _layers(params, experiment, method):
                try:
                    _merge(model, layers)
                except ValidationError as error:
                    for e in unknown_keys_first(error):
                        yield describe(e, layers, model)
        with suppress(ValidationError):
            run = resolve(params, experiment)
            yield from _data_problems(run, experiment)
            yield from _real_problems(run, experiment)
            yield from _kept_successes(run, experiment)
            yield from _all_split_problems(params, experiment)
            for method in (None, *params.methods):
                yield from _group_problems(resolve(params, experiment, method), experiment)
            for method in params.methods:
                yield from _untrained_tasks(params, experiment, method)
                yield from _real_problems(resolve(params, experiment, method), f"{experiment} with methods.{method}")


def _data_problems(run: Run, experiment: str) -> Iterator[str]:
    """Of what demonstrations are made or read from."""
    if run.env.benchmark is None and run.curate.dataset is None:
        yield (
            f"experiments.{experiment}: curate.dataset = null: without env.benchmark there is no script to show the"
            " tasks; give a dataset, or name a benchmark"
        )
    known = [*run.env.cameras, *COLUMNS]
    for name in run.curate.columns:
        if name not in known:
            yield f"experiments.{experiment}: curate.columns.{name}: {unknown(name, known, 'no such thing')}"


def _real_problems(run: Run, place: str) -> Iterator[str]:
    """Of the demonstrations of a second domain, and of what asks for them."""
    if run.curate.real is None:
        wanted = {"sft.sim_share": (run.sft.sim_share, "null"), "rl.sft_coef": (run.rl.sft_coef or None, "0")}
        for key, (value, nothing) in wanted.items():
            if value is not None:
                yield f"experiments.{place}: {key} = {value:g}: curate.real is null; give it, or set {key} to {nothing}"
    elif run.env.benchmark is None:
        yield f"experiments.{place}: curate.real: without env.benchmark there is no script to show it; set it to null"
    else:
        try:
            check_names(run.env.benchmark, "shift", run.curate.real.shift)
        except ValueError as error:
            yield f"experiments.{place}: curate.real.shift: {error}"


def _kept_successes(run: Run, experiment: str) -> Iterator[str]:
    """Where there is no success, none can be kept."""
    for key, record in (("evaluate", run.evaluate.record), ("rl", run.rl.record)):
        if record == "success" and run.env.score == "return":
            yield f"experiments.{experiment}: {key}.record = success: its episodes count by return; give all or none"


def _group_problems(run: Run, experiment: str) -> Iterator[str]:
    """Of environments in groups, where one cannot be simulated without the others."""
    for key, groups in (("evaluate", run.evaluate.env_groups), ("rl", run.rl.env_groups)):
        place = f"experiments.{experiment}: {key}.env_groups = {groups}"
        if groups > 1 and run.env.sim_backend == "gpu":
            yield f"{place}: env.sim_backend = gpu simulates all environments in one step; set it to 1"
        elif groups > 1 and key == "rl" and run.rl.algorithm == "sac":
            yield f"{place}: algorithm sac learns between two decisions, so nothing overlaps; set it to 1"


def _untrained_tasks(params: Params, experiment: str, method: str) -> Iterator[str]:
    """RL plays the tasks in turn, so a run needs a start for each."""
    run = resolve(params, experiment, method)
    if run.env.benchmark is None:
        return
    rl, tasks = run.rl, len(run.env.tasks)
    starts = rl.iterations * (rl.episodes_per_iteration // rl.group_size)
    if starts < tasks:
        yield (
            f"experiments.{experiment} with methods.{method}: env.tasks has {tasks} tasks, but rl.iterations "
            f"{rl.iterations} × rl.episodes_per_iteration {rl.episodes_per_iteration} / rl.group_size {rl.group_size} "
            f"= {starts} starts: some would never be trained; raise these, lower rl.group_size or name fewer tasks"
        )


def _all_split_problems(params: Params, experiment: str) -> Iterator[str]:
    """Of the sets that evaluation plays, and of those that each method watches."""
    entry = params.experiments[experiment]
    run = resolve(params, experiment)
    place = f"experiments.{experiment}.evaluate" if "splits" in entry.evaluate else "evaluate"
    yield from _split_problems(run.env, run.evaluate.splits, f"{place}.splits")
    for method in (None, *params.methods):
        place = f"methods.{method}" if method and "watch" in params.methods[method] else "rl"
        place = f"experiments.{experiment}.rl" if "watch" in entry.rl else place
        yield from _split_problems(run.env, resolve(params, experiment, method).rl.watch, f"{place}.watch")


def _split_problems(env: Env, splits: Mapping[str, Split], place: str) -> Iterator[str]:
    """Splits name tasks and shifts of the experiment's own benchmark."""
    if env.benchmark is None:
        return
    for name, split in splits.items():
        try:
            tasks = tasks_of(env.benchmark, split.tasks or [])
            check_backend(env.benchmark, env.sim_backend, tasks)
        except ValueError as error:
            yield f"{place}.{name}.tasks: {error}"
        else:
            trained = sorted({*tasks} & {*env.tasks})
            if trained and split_label(name).startswith("ood") and split.shift == env.shift:
                yield (
                    f"{place}.{name}.tasks: {', '.join(trained[:3])} would be trained too, so nothing is out of "
                    "distribution; take them out here or in env.tasks, or give a shift"
                )
        try:
            check_names(env.benchmark, "shift", split.shift)
        except ValueError as error:
            yield f"{place}.{name}.shift: {error}"
