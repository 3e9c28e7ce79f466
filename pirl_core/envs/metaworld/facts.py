"""The 50 MetaWorld v3 tasks: what the policy is told, how hard they are, which five ML45 holds out.

Difficulty groups follow SmolVLA (arXiv 2506.01844), which took them from Masked World Models (Seo et al. 2022,
appendix F).
"""

from pirl_core.envs.metaworld.published import ALIASES
from pirl_core.facts import Facts, Task

_TABLE = {
    "assembly-v3": ("put the green ring wrench over the brown peg", "hard"),
    "basketball-v3": ("drop the orange basketball through the hoop", "medium"),
    "bin-picking-v3": ("move the green block from the red bin to the blue bin", "medium"),
    "box-close-v3": ("put the lid on the wooden box", "medium"),
    "button-press-topdown-v3": ("press the red button down from above", "easy"),
    "button-press-topdown-wall-v3": ("reach over the brick wall and press the red button down", "easy"),
    "button-press-v3": ("press the red button forward", "easy"),
    "button-press-wall-v3": ("go around the brick wall and press the red button forward", "easy"),
    "coffee-button-v3": ("press the button of the coffee machine", "easy"),
    "coffee-pull-v3": ("pull the mug away from the coffee machine", "medium"),
    "coffee-push-v3": ("push the mug under the coffee machine", "medium"),
    "dial-turn-v3": ("turn the round dial", "easy"),
    "disassemble-v3": ("lift the ring wrench off the brown peg", "very_hard"),
    "door-close-v3": ("close the safe door", "easy"),
    "door-lock-v3": ("turn the door lock down", "easy"),
    "door-open-v3": ("open the safe door", "easy"),
    "door-unlock-v3": ("turn the door lock sideways", "easy"),
    "drawer-close-v3": ("push the drawer shut", "easy"),
    "drawer-open-v3": ("pull the drawer open", "easy"),
    "faucet-close-v3": ("turn the red faucet handle to the left", "easy"),
    "faucet-open-v3": ("turn the red faucet handle to the right", "easy"),
    "hammer-v3": ("hit the nail with the hammer", "medium"),
    "hand-insert-v3": ("put the brown block into the hole in the table", "hard"),
    "handle-press-side-v3": ("press the red side handle down", "easy"),
    "handle-press-v3": ("press the red handle down", "easy"),
    "handle-pull-side-v3": ("pull the red side handle up", "easy"),
    "handle-pull-v3": ("pull the red handle up", "easy"),
    "lever-pull-v3": ("lift the lever up", "easy"),
    "peg-insert-side-v3": ("insert the green peg into the side of the box", "medium"),
    "peg-unplug-side-v3": ("pull the grey peg out of the side of the box", "easy"),
    "pick-out-of-hole-v3": ("pick the red puck out of the hole", "hard"),
    "pick-place-v3": ("pick up the red puck and hold it at the blue goal", "hard"),
    "pick-place-wall-v3": ("lift the red puck over the brick wall to the blue goal", "very_hard"),
    "plate-slide-back-side-v3": ("slide the plate sideways out of the cabinet", "easy"),
    "plate-slide-back-v3": ("slide the plate back out of the cabinet", "easy"),
    "plate-slide-side-v3": ("slide the plate sideways into the cabinet", "easy"),
    "plate-slide-v3": ("slide the plate forward into the cabinet", "easy"),
    "push-back-v3": ("pull the wooden block back to the green goal", "hard"),
    "push-v3": ("push the red puck to the green goal", "hard"),
    "push-wall-v3": ("push the red puck around the brick wall to the green goal", "medium"),
    "reach-v3": ("move the hand to the red goal", "easy"),
    "reach-wall-v3": ("move the hand past the brick wall to the red goal", "easy"),
    "shelf-place-v3": ("put the blue block onto the shelf", "very_hard"),
    "soccer-v3": ("push the football into the goal net", "medium"),
    "stick-pull-v3": ("pull the thermos with the blue stick", "very_hard"),
    "stick-push-v3": ("push the thermos with the blue stick", "very_hard"),
    "sweep-into-v3": ("sweep the brown block into the hole in the table", "medium"),
    "sweep-v3": ("sweep the brown block off the table", "medium"),
    "window-close-v3": ("slide the window shut to the left", "easy"),
    "window-open-v3": ("slide the window open to the right", "easy"),
}

ML45_TEST = ("bin-picking-v3", "box-close-v3", "hand-insert-v3", "door-lock-v3", "door-unlock-v3")
"""Held out by ML45 (Meta-World, arXiv 1910.10897); the other 45 are its training tasks."""


TASKS = {
    name: Task((instruction,), difficulty, aliases=(ALIASES[name],))
    for name, (instruction, difficulty) in _TABLE.items()
}
FACTS = Facts(
    label="MetaWorld",
    tasks=TASKS,
    groups=("easy", "medium", "hard", "very_hard"),
    cameras=("corner2", "corner3", "gripperPOV"),
    shifts=("visual", "position", "real"),
    # The hand's position in m and the gripper's opening in [0, 1]; MetaWorld's full observation begins with these.
    state=("x", "y", "z", "gripper"),
    object_state=39,
    # The hand's displacement (1 unit = 1 cm asked of the mocap per step) and the gripper's effort, each in [-1, 1].
    action=("dx", "dy", "dz", "grip"),
    rate=80,
    robot="sawyer",
    action_range=1.0,
    # lerobot/metaworld_mt50: its picture is corner2 in our pose, both axes turned, as ``simulator.py`` draws it.
    columns=({"corner2": ("observation.image",), "task": ("task_id",)},),
    numbered={37: "push-back-v3", 38: "push-v3"},
    sets={
        "mt50": tuple(TASKS),
        "ml45": tuple(name for name in TASKS if name not in ML45_TEST),
        "ml45_test": ML45_TEST,
    },
)
