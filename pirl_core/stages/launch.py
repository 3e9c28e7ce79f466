"""More than one process for a stage: torchrun's own agent starts the ranks and ends them all when one fails.

How many is no parameter: it belongs to the machine, and results do not depend on it (but for rounding).
"""

import logging
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pirl_core.errors import UserError
from pirl_core.readers import variables
from pirl_core.stages.alive import LAUNCHER
from pirl_core.training import rendezvous

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

SHARDING = "PIRL_SHARDING"
COMMAND = "PIRL_LAUNCH"
PARALLEL = ("sft", "rl", "evaluate")
LOST_PEER = 75
"""Exit code of a rank that saw another one go."""
_SHUTDOWN_SECONDS = 4
# The agent tells other nodes that it lives, and the file that holds the news grows each time: there are none.
_KEEP_ALIVE_SECONDS = 3600


def process_count(stage: str) -> int:
    """PIRL_PROCESSES, else one per visible GPU, else 1. Raises UserError unless it is a number that can be.

    1 also inside a rank, and for the stages that use simulator processes only.
    """
    wish = variables.whole(variables.PROCESSES, most=variables.most_processes())
    for name, least in {"WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0}.items():
        variables.whole(name, least, 2**31 - 1)
    if stage not in PARALLEL or "RANK" in os.environ:
        return 1
    if wish:
        return wish
    import torch

    return max(1, torch.cuda.device_count())


def choose_sharding() -> str:
    """ddp or fsdp: PIRL_SHARDING, else what `accelerate launch` was told, else ddp.

    Ranks look at Accelerate's own variables, which this sets. Raises UserError for another value, for two choices that
    differ, and for the older FSDP.
    """
    wish = os.environ.get(SHARDING, "")
    launched = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if wish not in ("", "ddp", "fsdp"):
        raise UserError(f"{SHARDING} = {wish!r}: must be ddp or fsdp")
    if wish == "ddp" and launched:
        raise UserError(f"{SHARDING} = ddp, but accelerate launch was told to use FSDP; change either")
    if launched and os.environ.get("FSDP_VERSION") != "2":
        raise UserError(
            "accelerate launch was told to use FSDP 1; say fsdp_version: 2, as pirl_core/accelerate/fsdp.yaml"
        )
    if wish == "fsdp":
        os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    return "fsdp" if wish == "fsdp" or launched else "ddp"


def stage_words(stage: str, argv: Sequence[str]) -> list[str]:
    """The command line of a stage, without its `python`."""
    return ["-m", f"pirl_core.stages.{stage}", *argv]


def launch(stage: str, words: Sequence[str], count: int) -> int:
    """Run ``python`` with ``words`` in ``count`` ranks of this machine, which nothing outside it can reach.

    Returns the stage's exit code; one line tells of a lost rank.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Its own accounts of a failure are pages long.
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="pirl-", ignore_cleanup_errors=True) as folder:
        os.environ |= {LAUNCHER: str(os.getpid()), **rendezvous.settings(Path(folder))}
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=f"{stage}-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint=f"{folder}/agent",
            rdzv_configs={"store_type": "file", "keep_alive_interval": _KEEP_ALIVE_SECONDS},
            local_addr="localhost",
            max_restarts=0,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        try:
            elastic_launch(config, sys.executable)(*words)
        except ChildFailedError as error:
            return _told(stage, error)
        except SignalException as error:
            print(f"pirl: {stage}: stopped; a rerun goes on from the last checkpoint", file=sys.stderr)
            return 128 + error.sigval
    return 0


def launch_by(command: str, stage: str, argv: Sequence[str]) -> int:
    """Run the stage by another launcher, which reaches other nodes: PIRL_LAUNCH, then the stage command without its
    `python`. Returns its exit code. Raises UserError where there is no such command."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"{COMMAND} = {command!r}: {str(error).lower()}; correct it or unset it") from None
    if not words:
        raise UserError(f"{COMMAND} = {command!r}: names no command; correct it or unset it")
    without = {key: value for key, value in os.environ.items() if key != COMMAND}
    try:
        process = subprocess.Popen([*words, *stage_words(stage, argv)], env=without)
    except OSError as error:
        raise UserError(f"{COMMAND} = {command!r}: cannot be run ({error.strerror}); correct it or unset it") from None
    try:
        return process.wait()
    finally:
        process.terminate()
        process.wait()


def _told(stage: str, error: "ChildFailedError") -> int:
    """Exit code of the rank that failed first, after one line on why."""
    failures = {rank: failure for rank, failure in error.failures.items() if failure.exitcode != LOST_PEER}
    rank, first = min((failures or error.failures).items(), key=lambda item: item[1].timestamp)
    code: int = first.exitcode
    if first.message.startswith("pirl: "):
        print(first.message, file=sys.stderr)
        return code
    ending = f"was killed by {first.signal_name()}" if code < 0 else f"failed with exit code {code}"
    remedy = "all ranks were ended, a rerun goes on from the last checkpoint"
    print(f"pirl: {stage}: rank {rank} {ending}; {remedy}", file=sys.stderr)
    return 1
