"""The flow ``pirl``: the stages of dvc.yaml in order, independent ones side by side, failures kept to their branch."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from prefect import flow, get_client, get_run_logger
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.runtime import deployment
from prefect.states import Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.artifacts import write_results
from flows.graph import look_at_sources, read_graph, select
from flows.processes import Guards
from flows.resources import Machine, limit_name, visible_gpus
from flows.scheduler import Scheduler
from flows.sharing import claims, forget, send
from flows.stage import REFUSAL, Board
from flows.watch import watch
from flows.workspace import check, digest, environment, next_commands, open_workspace
from pirl_core.commands.inputs import lacking
from pirl_core.errors import UserError
from pirl_core.params.file import load_params
from pirl_core.readers import variables
from pirl_core.report.folder import results_of
from pirl_core.stages.lock import PIPELINE, take
from pirl_core.stages.mend import mend


@flow(name="pirl", task_runner=ThreadPoolTaskRunner[Any]())  # type: ignore[arg-type]
def pirl(
    experiments: list[str] | None = None,
    scale: str | None = None,
    overrides: dict[str, Any] | None = None,
    force: bool = False,
    keep_going: bool = True,
) -> State[Any]:
    """Run the pipeline of dvc.yaml. Finished stages are left alone, interrupted ones go on from their checkpoint.

    Args:
        experiments: names from params.yaml; null for all.
        scale: run a preset instead of params.yaml, in a folder apart.
        overrides: dotted keys of params.yaml with their values, {"rl.actor_lr": 1e-5}; run in a folder apart.
        force: run all chosen stages from their beginning, even if nothing changed.
        keep_going: when a stage fails, go on with those that do not need it.
    """
    log = get_run_logger()
    limits, api_url = _server()
    guards = Guards()
    over = watch(guards, api_url, served=deployment.id is not None)
    try:
        processes = variables.whole(variables.PROCESSES, most=variables.most_processes())
        shared = variables.flag(variables.SHARE)
        if shared and force:
            raise UserError(f"force with {variables.SHARE}: each machine would run every stage; leave one of them out")
        wish = check(Path.cwd(), scale, overrides, experiments)
        folder = open_workspace(wish)
        if wish.differs:
            log.info("the parameters differ from params.yaml: this run and its results are in %s", folder)
        with take(folder / PIPELINE, tell=lambda holder: log.info("process %s runs here; waiting for its end", holder)):
            for line in mend(folder):
                log.warning(line)
            here = environment(wish, folder, os.environ)
            look_at_sources(folder, here)
            graph = read_graph(folder)
            chosen = select(graph, experiments)
            will_run = [stage.address for stage in chosen if stage.stale or force]
            for name, said in lacking(load_params(folder / "params.yaml"), folder, will_run).items():
                if not keep_going:
                    raise UserError(said)
                log.warning("%s will not run: %s", name, said)
            if shared:
                send(folder, [stage.address for stage in chosen if not stage.stale], here, guards)
                forget(folder, [stage.address for stage in chosen if stage.stale])
            machine = Machine(limits, here, visible_gpus(os.environ), processes)
            log.info("stages at once: %s", machine.describe())
            board = Board(folder, force, guards, shared)
            with claims(digest(wish), log) if shared else nullcontext() as held:
                scheduler = Scheduler(graph, chosen, board, machine, log, held)
                try:
                    state = scheduler.run(keep_going)
                except BaseException:
                    # Before the folder, and what is claimed, may be another's.
                    guards.end_all()
                    raise
            if scheduler.went_well("report"):
                write_results(log, folder)
        log.info("results: %s", results_of(root=folder))
        if wish.differs:
            log.info("to compare with params.yaml's own run: %s", next_commands(wish, folder))
        return state
    except UserError as error:
        return Failed(name=REFUSAL, message=str(error))
    except BaseException:
        # Cancelled or interrupted: Prefect ends neither its threads nor what these have started.
        guards.end_all()
        raise
    finally:
        over.set()


def _server() -> tuple[dict[str, int], str]:
    """The concurrency limits that are defined, by resource; and the address of the API."""
    limits = {}
    with get_client(sync_client=True) as client:
        for resource in ("cpu", "gpu"):
            try:
                found = client.read_global_concurrency_limit_by_name(limit_name(resource))
            except ObjectNotFound:
                continue
            if found.active:
                limits[resource] = found.limit
        return limits, str(client.api_url).rstrip("/")
