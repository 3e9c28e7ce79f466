"""The order in which the stages of one flow run start: after what they need, side by side as far as slots allow."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from prefect.client.schemas.objects import State
from prefect.futures import PrefectConcurrentFuture
from prefect.states import Completed, Failed
from prefect.tasks import Task

from flows.artifacts import Log, ProgressBar, Row, describe, write_stages
from flows.graph import Stage, longest_first
from flows.resources import Machine, limit_name
from flows.sharing import Claims
from flows.stage import UNCHANGED, Board, leave_stage, run_stage

Future = PrefectConcurrentFuture[Any]
NOT_RUN = "NotRun"
_POLL_SECONDS = 0.1
_SHOW_SECONDS = 5.0


class Running(NamedTuple):
    stage: Stage
    resource: str
    gpus: list[str]
    since: float


class Scheduler:
    """Which stages wait, run and have ended. rows: those that have ended, as shown in the UI's table."""

    def __init__(
        self,
        graph: Sequence[Stage],
        chosen: Sequence[Stage],
        board: Board,
        machine: Machine,
        log: Log,
        claims: Claims | None = None,
    ) -> None:
        """claims: of runs on other machines that share the stages with this one."""
        self.graph = graph
        self.waiting = {stage.address: stage for stage in longest_first(chosen)}
        self.running: dict[str, Running] = {}
        self.rows: dict[str, Row] = {}
        self._futures: dict[str, Future] = {}
        self._chosen = frozenset(self.waiting)
        self._board = board
        self._machine = machine
        self._log = log
        self._claims = claims
        self._bar = ProgressBar(log)

    def run(self, keep_going: bool) -> State[Any]:
        """Until no stage is left to start and none runs. Fails in one line that names the failed and the not run."""
        shown = -_SHOW_SECONDS
        while self.waiting or self.running:
            for stage in list(self.waiting.values()):
                self._advance(stage)
            failed = [address for address in list(self.running) if self._ended(address)]
            if failed and not keep_going and not self._board.guards.closed:
                self._log.error("%s failed and keep_going is false: stopping the others", failed[0])
                self._board.guards.end_all()
            if self._claims:
                self._claims.renew()
            if time.monotonic() - shown >= _SHOW_SECONDS:
                shown = time.monotonic()
                self._show()
            time.sleep(_POLL_SECONDS)
        self._show()
        write_stages(self._log, list(self.rows.values()))
        return self._verdict()

    def _advance(self, stage: Stage) -> None:
        """Start a waiting stage, or settle that it will not run, or leave it waiting."""
        needs = [need for need in stage.needs if need in self._chosen]
        if any(need not in self.rows for need in needs):
            return
        wait_for = [self._futures[need] for need in needs if need in self._futures]
        if self._board.guards.closed or any(not self.went_well(need) for need in needs):
            # Prefect marks it NotReady; where it has nothing to wait for, nothing of it is shown.
            bad = [self._futures[need] for need in needs if need in self._futures and not self.went_well(need)]
            if bad:
                self._submit(stage.address, run_stage, self._board, {}, None, wait_for=bad)
            self._close(stage.address, NOT_RUN, 0.0, "a stage that it needs did not finish" if bad else "stopped")
        elif not stage.stale and not self._board.force:
            self._submit(stage.address, leave_stage, wait_for=wait_for)
            self._close(stage.address, UNCHANGED, 0.0, "")
        else:
            self._start(stage, wait_for)

    def _start(self, stage: Stage, wait_for: list[Future]) -> None:
        resource = self._machine.resource(stage)
        busy = Counter(other.resource for other in self.running.values())
        if busy[resource] >= self._machine.slots[resource]:
            return
        if self._claims and not self._claims.take(stage.address):
            return
        del self.waiting[stage.address]
        gpus = self._machine.take(stage, self.graph)
        variables = self._machine.variables(stage, self.graph, gpus)
        limit = limit_name(resource) if resource in self._machine.limited else None
        self.running[stage.address] = Running(stage, resource, gpus, time.monotonic())
        self._submit(stage.address, run_stage, self._board, variables, limit, wait_for=wait_for)

    def _submit(self, address: str, what: Task[..., Any], *arguments: Any, wait_for: list[Future]) -> None:
        future = what.submit(address, *arguments, return_state=False, wait_for=wait_for)
        assert isinstance(future, PrefectConcurrentFuture)
        self._futures[address] = future

    def _ended(self, address: str) -> bool:
        """Notes the end of a stage that has ended; True for a failure."""
        future = self._futures[address].wrapped_future
        if not future.done():
            return False
        state: State[Any] = future.result()
        running = self.running.pop(address)
        if self._claims:
            self._claims.give_back(address)
        self._machine.give_back(running.gpus)
        self._close(address, state.name or state.type.value, time.monotonic() - running.since, state.message or "")
        return state.is_failed() or state.is_crashed()

    def _close(self, address: str, state: str, seconds: float, message: str) -> None:
        self.waiting.pop(address, None)
        self.rows[address] = {"stage": address, "state": state, "seconds": round(seconds, 1), "message": message}

    def went_well(self, address: str) -> bool:
        return address in self.rows and self.rows[address]["state"] in ("Completed", UNCHANGED)

    def _show(self) -> None:
        running = {address: self._board.progress.get(address) for address in self.running}
        self._bar.show(*describe(len(self.rows), len(self._chosen), running))

    def _verdict(self) -> State[Any]:
        bad = [row for address, row in self.rows.items() if not self.went_well(address)]
        failed = [row for row in bad if row["state"] not in (NOT_RUN, "Cancelled")]
        if bad:
            reasons = "; ".join(f"{row['stage']}: {row['message']}" for row in failed)
            others = ", ".join(row["stage"] for row in bad if row not in failed)
            return Failed(
                message=f"failed: {reasons or 'none'}" + (f". Not run to the end: {others}" if others else "")
            )
        left = [row for row in self.rows.values() if row["state"] == UNCHANGED]
        return Completed(message=f"{len(self.rows)} stages: {len(self.rows) - len(left)} ran, {len(left)} unchanged")
