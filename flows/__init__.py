"""The DVC graph as a Prefect flow. Nothing in ``pirl_core`` needs this package, nor does ``dvc repro``.

run          `make flow`: once, with a server of its own for as long as it takes
serve        `make serve`: server, UI and a deployment with a schedule
deployment   the deployment alone, for a server that runs elsewhere
pipeline     the flow: checks, stages, results
scheduler    which stage starts when, and what a failure means for the others
stage        one stage as a task: its command, its log lines, its state
sharing      runs on several machines: who takes which stage, and DVC's remote between them
graph        the stages of dvc.yaml, their order, what is up to date
resources    how many stages at once, on which cores and GPUs
workspace    parameters: checked, and with overrides run in a folder apart
lines        what a stage prints, understood
processes    commands that end when the flow does
guard        the process that sees to it
watch        ends the flow when its worker or its server is gone
artifacts    tables, report and progress in the UI
server       a Prefect server that ends with us
gate         that server, closed to pages from elsewhere
"""

import os

# Read when Prefect is imported: no telemetry, and no hurry for a server that starts on a busy machine.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")


def past_proxies(names: str) -> str:
    """A NO_PROXY with this machine's own addresses in it."""
    known = [name.strip() for name in names.split(",") if name.strip()]
    return ",".join(dict.fromkeys([*known, "127.0.0.1", "localhost", "::1"]))


# Our server is on this machine, whatever proxy leads out of it. The small letters count where both are there.
_PAST = past_proxies(os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "")
os.environ.update(no_proxy=_PAST, NO_PROXY=_PAST)
