"""What surrounds a training loop: the folders it fills, the tracker it reports to, the checkpoints it goes on from."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from pirl_core.files import copy_tree, replace_folder, write_json, write_tensors
from pirl_core.params.sections import Supervision
from pirl_core.readers.tensors import read_tensors
from pirl_core.training import ranks
from pirl_core.training.learner import Learner, LearnerState
from pirl_core.training.ranks import Ranks
from pirl_core.training.resume import Checkpoints, link_tree, open_checkpoints, read_state
from pirl_core.training.track import Tracker

EXTRA = "extra.safetensors"


class Session(NamedTuple):
    """policy, log: the outputs as they grow, whole only when the stage ends well. found: the checkpoint to go on from.

    tracker: silent on all ranks but the main one.
    """

    policy: Path
    log: Path
    tracker: Tracker
    supervision: Supervision
    ranks: Ranks
    checkpoints: Checkpoints
    found: Path | None

    def restore(self, learner: Learner) -> dict[str, Any] | None:
        """Put the learner where the checkpoint left it; returns the loop's own numbers, None at a fresh start."""
        if self.found is None:
            return None
        state = read_state(self.found)
        tensors = read_tensors(self.found / "learner.safetensors", f"delete {self.found}")
        learner.restore(LearnerState(tensors, state["steps"], state["skipped"]))
        numbers: dict[str, Any] = state["numbers"]
        return numbers

    def extra(self) -> dict[str, Tensor]:
        """What the checkpoint holds beside the learner, as ``save_if_due`` was given it."""
        if self.found is None or not (self.found / EXTRA).exists():
            return {}
        return read_tensors(self.found / EXTRA, f"delete {self.found}")

    def save_if_due(
        self,
        step: int,
        learner: Learner,
        numbers: dict[str, Any],
        extra: Callable[[], dict[str, Tensor]] | None = None,
    ) -> None:
        """A checkpoint after ``step``, when the last one is old enough. All ranks must call it; the main one writes.
        extra: makes what is kept beside the learner (a replay buffer)."""
        if not ranks.agreed(self.checkpoints.due()):
            return
        state = learner.state()
        if not self.ranks.main:
            return

        def write(folder: Path) -> None:
            write_tensors(folder / "learner.safetensors", state.tensors)
            if extra is not None:
                write_tensors(folder / EXTRA, {name: value.contiguous() for name, value in extra().items()})
            write_json(folder / "state.json", {"steps": state.steps, "skipped": state.skipped, "numbers": numbers})
            link_tree(self.policy, folder / "policy")
            # The log goes on growing: a copy, not a link.
            copy_tree(self.log, folder / "log")

        self.checkpoints.save(step, write)
        self.tracker.checkpointed(step)


@contextmanager
def open_session(
    stage: str,
    name: str,
    mark: str,
    parameters: dict[str, Any],
    supervision: Supervision,
    total: int,
    policy: Path,
    log: Path,
) -> Iterator[Session]:
    """A session of ``total`` steps; it goes on from a checkpoint of the same fingerprint ``mark`` if there is one.

    ``policy`` and ``log`` become the stage's outputs if the block ends well. parameters: told to the trackers.
    """
    here = ranks.join()
    checkpoints = open_checkpoints(stage, name, supervision.checkpoint_minutes, mark)
    label = f"[{stage} {name}]"
    found = ranks.agreed(checkpoints.latest(lambda text: print(label, text, flush=True)) if here.main else None)
    step, slot = found or (0, None)
    with replace_folder(policy, here.main) as new_policy, replace_folder(log, here.main) as new_log:
        if slot and here.main:
            link_tree(slot / "policy", new_policy)
            copy_tree(slot / "log", new_log)
            print(f"{label} resumed at {step}/{total}", flush=True)
        with Tracker(
            stage,
            name,
            total,
            new_log,
            trackers=supervision.trackers,
            config=parameters,
            resumed=step,
            main=here.main,
        ) as tracker:
            yield Session(new_policy, new_log, tracker, supervision, here, checkpoints, slot)
