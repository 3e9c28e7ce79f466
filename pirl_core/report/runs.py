"""What ran on what, in how long, at which revision: results/<scale>/run.json from the run records of all stages."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]
ENVIRONMENT = ("python", "versions")


def build_runs(records: list[Record], expected: int) -> dict[str, Any]:
    """Totals, totals by stage, the environments (Python and packages), and the records, each with the name of its own.

    records: one per finished stage, in pipeline order (`inputs.read_runs`); expected: how many the parameters ask
    for. Wall seconds are summed: what the results cost, whenever and however parallel the stages ran.
    """
    stages = list(dict.fromkeys(record["stage"] for record in records))
    environments = {name: content for record in records for name, content in [environment(record)] if content}
    return {
        "total_wall_seconds": _round(sum(record.get("wall_seconds") or 0.0 for record in records)),
        "peak_memory_mib": _peak(records),
        "machines": _machines(records),
        "revisions": _revisions(records),
        "recorded": len(records),
        "expected": expected,
        "by_stage": [_stage(stage, [record for record in records if record["stage"] == stage]) for stage in stages],
        "environments": environments,
        "records": [_named(record) for record in records],
    }


def environment(record: Record) -> tuple[str, Record]:
    """Python and package versions of a run, with a name made of them; ('', {}) where it recorded none."""
    content = {key: record[key] for key in ENVIRONMENT if record.get(key)}
    text = json.dumps(content, sort_keys=True)
    return (hashlib.sha256(text.encode()).hexdigest()[:8], content) if content else ("", {})


def _named(record: Record) -> Record:
    name, _ = environment(record)
    rest = {key: value for key, value in record.items() if key not in ENVIRONMENT}
    return {**rest, "environment": name} if name else rest


def is_edited(record: Record) -> bool:
    """Whether the sources had uncommitted edits; older records say so in the revision."""
    return bool(record.get("edits")) or (record.get("revision") or "").endswith("-dirty")


def revision_label(record: Record) -> str:
    """`abc1234`, or `abc1234 with edits`; '' where none was recorded."""
    revision = (record.get("revision") or "").removesuffix("-dirty")
    return f"{revision} with edits" if revision and is_edited(record) else revision


def machine_label(machine: Any) -> str:
    """A machine record (`provenance.machine.machine`) as one short phrase."""
    if not isinstance(machine, dict):
        return str(machine)
    parts = [str(machine["cpu"])] if machine.get("cpu") else []
    parts += [f"{machine['cores']} cores"] if machine.get("cores") else []
    parts += [f"{machine['memory_mib'] / 1024:.0f} GiB"] if machine.get("memory_mib") else []
    gpus = machine.get("gpus") or []
    parts += [f"{gpus.count(gpu)} × {gpu}" for gpu in dict.fromkeys(gpus)]
    return ", ".join(parts)


def parameters(records: list[Record]) -> dict[str, dict[str, Any]]:
    """What each experiment ran with, taken from its records: {experiment: {section or 'rl (method)': values}}."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        experiment, _, rest = record["name"].partition("-")
        for section, values in (record.get("params") or {}).items():
            method = rest.rpartition("-")[0]
            key = f"{section} ({method})" if section == "rl" and method else section
            found.setdefault(experiment, {}).setdefault(key, values)
    return found


def versions(environments: dict[str, Record]) -> list[str]:
    """`package version` lines; a package that changed between runs gets a line for each version."""
    told = environments.values()
    pairs = {(name, version) for each in told for name, version in each.get("versions", {}).items()}
    pairs |= {("python", each["python"]) for each in told if "python" in each}
    return [f"{name} {version}" for name, version in sorted(pairs)]


def _stage(stage: str, records: list[Record]) -> Record:
    return {
        "stage": stage,
        "runs": len(records),
        "wall_seconds": _round(sum(record.get("wall_seconds") or 0.0 for record in records)),
        "peak_memory_mib": _peak(records),
        "machines": _machines(records),
        "revisions": _revisions(records),
    }


def _peak(records: list[Record]) -> float | None:
    peaks = [record["peak_memory_mib"] for record in records if record.get("peak_memory_mib") is not None]
    return _round(max(peaks)) if peaks else None


def _machines(records: list[Record]) -> list[str]:
    return _distinct(machine_label(record["machine"]) for record in records if record.get("machine"))


def _revisions(records: list[Record]) -> list[str]:
    return _distinct(map(revision_label, records))


def _distinct(labels: Iterable[str]) -> list[str]:
    return [label for label in dict.fromkeys(labels) if label]


def _round(value: float) -> float:
    return round(float(value), 3)
