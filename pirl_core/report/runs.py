"""What ran on what, in how long, at which revision: results/run.json from the run records of all stages."""

from typing import Any

Record = dict[str, Any]


def build_runs(records: list[Record], expected: int) -> dict[str, Any]:
    """Totals, totals by stage, and the records.

    records: one per finished stage, in pipeline order (`inputs.read_runs`); expected: how many the parameters ask
    for. Wall seconds are summed: what the results cost, whenever and however parallel the stages ran.
    """
    stages = list(dict.fromkeys(record["stage"] for record in records))
    return {
        "total_wall_seconds": _round(sum(record.get("wall_seconds") or 0.0 for record in records)),
        "peak_memory_mib": _peak(records),
        "machines": _distinct(records, "machine"),
        "revisions": _distinct(records, "revision"),
        "recorded": len(records),
        "expected": expected,
        "by_stage": [_stage(stage, [record for record in records if record["stage"] == stage]) for stage in stages],
        "records": records,
    }


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


def versions(records: list[Record]) -> list[str]:
    """`package version` lines; a package that changed between runs gets a line for each version."""
    pairs = {(name, version) for record in records for name, version in (record.get("versions") or {}).items()}
    pairs |= {("python", record["python"]) for record in records if record.get("python")}
    return [f"{name} {version}" for name, version in sorted(pairs)]


def _stage(stage: str, records: list[Record]) -> Record:
    return {
        "stage": stage,
        "runs": len(records),
        "wall_seconds": _round(sum(record.get("wall_seconds") or 0.0 for record in records)),
        "peak_memory_mib": _peak(records),
        "machines": _distinct(records, "machine"),
        "revisions": _distinct(records, "revision"),
    }


def _peak(records: list[Record]) -> float | None:
    peaks = [record["peak_memory_mib"] for record in records if record.get("peak_memory_mib") is not None]
    return _round(max(peaks)) if peaks else None


def _distinct(records: list[Record], key: str) -> list[str]:
    return list(dict.fromkeys(machine_label(record[key]) for record in records if record.get(key)))


def _round(value: float) -> float:
    return round(float(value), 3)
