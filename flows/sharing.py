"""Runs on several machines that share stages by DVC's remote: who takes which, and what was finished before.

Each run walks the whole graph. A stage is one run's at a time; what it has made goes to the remote before it is given
back, and whoever takes it next finds it there, by DVC's run cache. A claim is a lease of Prefect's: a slot of a
concurrency limit that bears the stage's name. Whoever holds it tells the server every so often that it is alive; the
slot of one that died is free again after a minute and some seconds.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.responses import ConcurrencyLimitWithLeaseResponse
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flows.artifacts import Log
from flows.graph import dvc, with_own_python
from flows.lines import Transcript
from flows.processes import Guards
from pirl_core.errors import UserError
from pirl_core.readers.variables import SHARE
from pirl_core.stages.mend import RECORD

# The shortest that the server grants.
_LEASE_SECONDS = 60.0
_RENEW_SECONDS = 20.0
_ASK_SECONDS = 2.0


class Claims:
    """The stages that this run holds. runs: what those have in common that share stages."""

    def __init__(self, client: SyncPrefectClient, runs: str, log: Log) -> None:
        self._client = client
        self._runs = runs
        self._log = log
        self._held: dict[str, UUID] = {}
        self._asked: dict[str, float] = {}
        self._renewed = time.monotonic()

    def take(self, address: str) -> bool:
        """False where another run holds the stage. May be called often: it asks the server once in a while."""
        now = time.monotonic()
        if now - self._asked.get(address, -_ASK_SECONDS) < _ASK_SECONDS:
            return False
        self._asked[address] = now
        try:
            self._client.upsert_global_concurrency_limit_by_name(self._name(address), 1)
            answer = self._client.increment_concurrency_slots_with_lease(
                [self._name(address)], 1, "concurrency", _LEASE_SECONDS
            )
        except ObjectAlreadyExists:
            return False
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.LOCKED and not error.response.is_server_error:
                raise
            return False
        except httpx.TransportError:
            # Whether the server stays away is for flows/watch.py to see.
            return False
        lease = ConcurrencyLimitWithLeaseResponse.model_validate(answer.json())
        # Without a limit, another run has just given it back.
        if lease.limits:
            self._held[address] = lease.lease_id
        return bool(lease.limits)

    def renew(self) -> None:
        """Tell the server that this run is alive; to be called all the time, it does so now and then."""
        if time.monotonic() - self._renewed < _RENEW_SECONDS:
            return
        self._renewed = time.monotonic()
        for address, lease in list(self._held.items()):
            try:
                self._client.renew_concurrency_lease(lease, _LEASE_SECONDS)
            except httpx.HTTPStatusError as error:
                if error.response.is_server_error:
                    return
                del self._held[address]
                self._log.warning("the server has given %s away; another run may begin it as well", address)
            except httpx.TransportError:
                return

    def give_back(self, address: str) -> None:
        """The limit goes with it, so that none is left of stages that are done."""
        if self._held.pop(address, None):
            with suppress(ObjectNotFound, httpx.HTTPError):
                self._client.delete_global_concurrency_limit_by_name(self._name(address))

    def give_all_back(self) -> None:
        for address in list(self._held):
            self.give_back(address)

    def _name(self, address: str) -> str:
        return f"pirl-{self._runs}-{address}"


@contextmanager
def claims(runs: str, log: Log) -> Iterator[Claims]:
    """However the run ends, but for a SIGKILL, what it holds is given back."""
    with get_client(sync_client=True) as client:
        held = Claims(client, runs, log)
        try:
            yield held
        finally:
            held.give_all_back()


def send(folder: Path, finished: Sequence[str], variables: Mapping[str, str], guards: Guards) -> None:
    """To DVC's default remote, what is up to date here. Raises UserError without one, or where it does not take it."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        if not repo.config["core"].get("remote"):
            raise UserError(
                f"{SHARE} = '1': DVC has no default remote; dvc remote add -d NAME URL, the same everywhere"
            )
    transcript = Transcript()
    push = dvc("push", "--run-cache", *finished)
    if finished and guards.run(push, folder, with_own_python({**variables}), transcript.add):
        raise UserError(f"{SHARE} = '1': what is finished cannot be sent to DVC's remote: {transcript.message}")


def forget(folder: Path, addresses: Sequence[str]) -> None:
    """Take stages that are to run out of dvc.lock: a record whose outputs are nowhere would hide from DVC that another
    machine has made them anew."""
    from dvc.utils.serialize import modify_yaml

    if (folder / RECORD).exists():
        with modify_yaml(str(folder / RECORD)) as record:
            for address in addresses:
                record["stages"].pop(address, None)
