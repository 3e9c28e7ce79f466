"""One stage as a Prefect task: its command, its lines in the log, its state in the UI."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.states import Cancelled, Completed, Failed

from flows.artifacts import Log
from flows.graph import dvc, with_own_python
from flows.lines import REFUSED, Progress, Transcript, level, progress
from flows.processes import Guards, StoppedError
from pirl_core.stages.mend import mend

if TYPE_CHECKING:
    from prefect.client.schemas.objects import TaskRun
    from prefect.tasks import Task

UNCHANGED = "Unchanged"
REFUSAL = "Refused"
_LIMIT_PATIENCE_SECONDS = 5
_LEASE_SECONDS = 60


class Board:
    """What all stages of one flow run share. progress: the last progress line of each running stage.

    share: what other machines have finished comes from DVC's remote, and what is finished here goes there.
    """

    def __init__(self, folder: Path, force: bool, guards: Guards, share: bool = False) -> None:
        self.folder = folder
        self.force = force
        self.guards = guards
        self.share = share
        self.progress: dict[str, Progress] = {}


def worth_a_retry(_task: "Task[..., Any]", _run: "TaskRun", state: State[Any]) -> bool:
    """Not what the user has to mend first."""
    return state.name != REFUSAL


@task(
    task_run_name="{address}",
    retries=2,
    retry_delay_seconds=[5, 20],
    retry_condition_fn=worth_a_retry,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def run_stage(address: str, board: Board, variables: dict[str, str], limit: str | None) -> State[Any]:
    """``dvc repro`` of one stage; a retry goes on from its checkpoint. limit: a defined Prefect limit to hold."""
    logger = get_run_logger()
    transcript = Transcript()
    commands = [dvc("repro", "--single-item", address)]
    if board.share:
        commands = [[*commands[0], "--pull"], dvc("push", "--run-cache", address)]
    if board.force:
        commands[0].append("--force")
        variables = {**variables, "PIRL_FRESH": "1"}
    try:
        with _holding(limit, board.guards):
            for line in mend(board.folder):
                logger.warning(line)
            tell = _reporter(address, board, transcript, logger)
            for command in commands:
                if code := board.guards.run(command, board.folder, with_own_python(variables), tell):
                    break
    except StoppedError:
        return Cancelled(message="stopped; a rerun goes on from the last checkpoint")
    finally:
        board.progress.pop(address, None)
    if code == 0:
        return Completed(name=UNCHANGED) if transcript.unchanged else Completed()
    if transcript.exit_code == REFUSED:
        return Failed(name=REFUSAL, message=transcript.message)
    ending = code if transcript.exit_code is None else transcript.exit_code
    return Failed(message=f"{transcript.message} (exit code {ending})")


@task(task_run_name="{address}", cache_policy=NO_CACHE, persist_result=False)
def leave_stage(address: str) -> State[Any]:
    """A stage that is up to date, as are all that it needs."""
    return Completed(name=UNCHANGED, message=f"{address} is up to date")


@contextlib.contextmanager
def _holding(limit: str | None, guards: Guards) -> Iterator[None]:
    """Hold a slot of the limit, without missing the order to stop while waiting for it."""
    with contextlib.ExitStack() as stack:
        while limit:
            if guards.closed:
                raise StoppedError
            slot = concurrency(limit, timeout_seconds=_LIMIT_PATIENCE_SECONDS, lease_duration=_LEASE_SECONDS)
            try:
                stack.enter_context(slot)
                break
            except TimeoutError:
                continue
        yield


def _reporter(address: str, board: Board, transcript: Transcript, logger: Log) -> Callable[[str], None]:
    """Lines into the run's log: all of them, but of progress at most one a second, and the last."""
    last = 0.0

    def tell(line: str) -> None:
        nonlocal last
        if not line.strip() or board.guards.closed:
            # What stages say on being stopped is no news.
            return
        transcript.add(line)
        step = progress(line)
        if step:
            board.progress[address] = step
            now = time.monotonic()
            if now - last < 1 and step.step < step.total:
                return
            last = now
        logger.log(level(line), line)

    return tell
