"""The frozen protocol for a policy that somebody serves: episodes, tables and videos as of the project's own."""

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.evaluation.evaluate import Turn, play_turns, split_episodes
from pirl_core.evaluation.record import RECORD
from pirl_core.evaluation.starts import shared_starts
from pirl_core.evaluation.written import Whose, write_episodes, write_pictures
from pirl_core.files import replace_folder, write_json
from pirl_core.params.sections import Env, Evaluate, split_label
from pirl_core.provenance.machine import machine
from pirl_core.provenance.packages import versions
from pirl_core.provenance.revision import revision
from pirl_core.serving.remote import Remote
from pirl_core.training.resume import Checkpoints
from pirl_core.training.track import Tracker

PACKAGES = ("numpy", "msgpack", "websockets", "gymnasium")


def evaluate_served(
    remote: Remote, env: Env, evaluate: Evaluate, whose: Whose, told: dict[str, Any], folder: Path
) -> pd.DataFrame:
    """Plays all splits and writes ``folder``, whole or not at all; returns the table of episodes.

    remote: with its connections open. told: goes into RECORD beside what was run, and on what. There are no
    checkpoints: nothing says that a server is still the same after a while. Raises UserError where the server fails.
    """
    begun = time.monotonic()
    said = f"[evaluate {folder.name}]"
    splits = {split_label(name): split_episodes(env, evaluate, name) for name in evaluate.splits}
    total = sum(map(len, splits.values()))
    with (
        replace_folder(folder) as new,
        Tracker("evaluate", folder.name, total, None) as tracker,
        VectorEnv(env, evaluate.num_envs, groups=evaluate.env_groups) as envs,
    ):
        turns = [Turn(label, episodes, partial(remote.player, episodes)) for label, episodes in splits.items()]
        outcomes = play_turns(turns, envs, [], evaluate.num_envs, Checkpoints(new, math.inf), tracker, env.score)
        for label, note in shared_starts(env, evaluate).items():
            print(f"{said} {label}: {note}", flush=True)
        write_pictures(envs, env, evaluate, outcomes, splits.keys(), new, tracker, said)
        at = revision()
        record = {
            **told,
            "wall_seconds": round(time.monotonic() - begun, 2),
            "machine": machine(),
            "versions": versions(PACKAGES, [str(env.benchmark)]),
            "revision": at.commit,
            "edits": at.edits,
            "params": {"env": env.model_dump(mode="json"), "evaluate": evaluate.model_dump(mode="json")},
        }
        write_json(new / RECORD, record)
        return write_episodes(outcomes, whose, env.score, new)
