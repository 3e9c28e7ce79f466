"""What is known of CALVIN without its simulator.

``D/open_drawer``: one subtask in scene D. ``D/sequence``: the long-horizon protocol, five subtasks in a row.
``D/scripted`` stands for the subtasks of a scene that have a script.
"""

from collections.abc import Hashable, Sequence

from pirl_core.envs.calvin.annotations import TRAINING
from pirl_core.envs.calvin.sequences import LENGTH, SUBTASK_STEPS, conditions, sequences
from pirl_core.envs.calvin.subtasks import SUBTASKS, follow
from pirl_core.facts import Facts, Task

SCENES = ("A", "B", "C", "D")
SEQUENCE = "sequence"
STARTS = {
    name: tuple(condition for condition in conditions() if follow(condition, name) is not None) for name in SUBTASKS
}
"""Starts of sequences from which a subtask can be done at once; for some, which need a block in the hand or in the
drawer, there is none."""
ALONE = tuple(name for name, starts in STARTS.items() if starts)
"""The 27 subtasks that are tasks of their own."""
SCRIPTED = tuple(
    name
    for name in ALONE
    if not name.startswith("rotate") and not name.endswith("slider") and name != "push_into_drawer"
)
"""Those that the expert shows: it lifts blocks from the table only, and pushes none into the drawer."""

_GROUPS = {
    "rotate": "rotate",
    "push": "push",
    "move": "articulated",
    "open": "articulated",
    "close": "articulated",
    "turn": "articulated",
    "lift": "lift",
}


def _group(name: str) -> str:
    return "push" if name == "push_into_drawer" else _GROUPS[name.split("_")[0]]


def _trained(sentences: tuple[str, ...]) -> tuple[str, ...]:
    """What the training set calls the subtasks of these sentences."""
    names = [name for name, subtask in SUBTASKS.items() if subtask.sentence in sentences]
    return tuple(text for name in names for text in TRAINING[name])


def _tasks() -> dict[str, Task]:
    tasks = {}
    for scene in SCENES:
        for name in ALONE:
            own = (SUBTASKS[name].sentence,)
            tasks[f"{scene}/{name}"] = Task(own, _group(name), 1, SUBTASK_STEPS, _trained(own))
        sentences = tuple(subtask.sentence for subtask in SUBTASKS.values())
        tasks[f"{scene}/{SEQUENCE}"] = Task(
            sentences,
            SEQUENCE,
            LENGTH,
            SUBTASK_STEPS,
            _trained(sentences),
            parts=tuple((subtask.sentence, *TRAINING[name]) for name, subtask in SUBTASKS.items()),
            shown_by=_scripted(scene),
        )
    return tasks


def _scripted(scene: str) -> tuple[str, ...]:
    return tuple(f"{scene}/{name}" for name in SCRIPTED)


def _listed(task: str, shift: str) -> Sequence[Hashable]:
    """Scene and condition: a sequence and a subtask alone begin alike."""
    scene, name = task.split("/")
    if shift != "none":
        return ()
    starts = [one.condition for one in sequences()] if name == SEQUENCE else STARTS[name]
    return [(scene, *condition.values()) for condition in starts]


FACTS = Facts(
    label="CALVIN",
    tasks=_tasks(),
    groups=("articulated", "lift", "push", "rotate", SEQUENCE),
    sets={f"{scene}/scripted": _scripted(scene) for scene in SCENES},
    cameras=("static", "gripper"),
    # none: as the published evaluation starts. random: blocks and arm displaced, the condition drawn, and a sequence
    # that is none of the published.
    shifts=("random",),
    # The hand's position in m, its Euler angles in rad, the gripper's opening in m: the official code's choice.
    state=("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
    # The robot's 15 numbers and the scene's 24.
    object_state=39,
    # Displacement of the hand's target, 1 unit: 2 cm, and 0.05 rad; the gripper closes below 0 and opens above.
    action=("dx", "dy", "dz", "droll", "dpitch", "dyaw", "grip"),
    rate=30,
    robot="panda",
    action_range=1.0,
    listed=_listed,
    columns=(
        # InternRobotics/InternData-Calvin_ABC.
        {
            "static": ("video.image_base",),
            "gripper": ("video.image_wrist",),
            "state": ("state.ee_pos", "state.ee_rot", "state.gripper"),
            "action": ("action.delta_ee_pos", "action.delta_ee_rot", "action.gripper"),
        },
    ),
    assets="calvin",
)
