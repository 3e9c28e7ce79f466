"""The 34 subtasks: the sentence of the validation set, the kind of change, what has to hold before and holds after.

Two kinds of rule meet here. ``oracle.py`` judges a subtask on the simulator's numbers; ``follow`` plans with words like
``{"slider": "left"}``, as CALVIN does where it draws evaluation sequences.
"""

from collections.abc import Mapping
from typing import NamedTuple

COLOURS = ("red", "blue", "pink")
SLOTS = ("slider_right", "slider_left")
Condition = dict[str, int | str]
"""What a scene looks like in words; keys in the order of ``KEYS``."""

KEYS: dict[str, tuple[int | str, ...]] = {
    "led": (0, 1),
    "lightbulb": (0, 1),
    "slider": ("right", "left"),
    "drawer": ("closed", "open"),
    "red_block": ("table", *SLOTS),
    "blue_block": ("table", *SLOTS),
    "pink_block": ("table", *SLOTS),
    "grasped": (0,),
}
"""Values of a condition at the start of a sequence; on the way a block may be in the drawer, grasped or stacked."""


class Change(NamedTuple):
    """before: values that a key may have. after: values that keys get."""

    before: Mapping[str, tuple[int | str, ...]]
    after: Mapping[str, int | str]


class Subtask(NamedTuple):
    """sentence: the one of the validation set. category: no sequence has two of one. changes: the ways to solve it."""

    sentence: str
    category: str
    changes: tuple[Change, ...]


def _free(after: Mapping[str, int | str], **before: int | str | tuple[int | str, ...]) -> Change:
    """A change that starts with an empty hand."""
    return _change(after, grasped=0, **before)


def _change(after: Mapping[str, int | str], **before: int | str | tuple[int | str, ...]) -> Change:
    return Change({key: value if isinstance(value, tuple) else (value,) for key, value in before.items()}, after)


def _lift(block: str, **before: int | str) -> Change:
    return _free({block: "grasped", "grasped": 1}, **before)


def _put(block: str, place: str, **before: int | str) -> Change:
    return _change({block: place, "grasped": 0}, grasped=1, **{block: "grasped"}, **before)


def _subtasks() -> dict[str, Subtask]:
    """In CALVIN's order, on which its draws depend."""
    table: dict[str, Subtask] = {}
    blocks = [f"{colour}_block" for colour in COLOURS]
    for colour, block in zip(COLOURS, blocks, strict=True):
        for side in ("right", "left"):
            table[f"rotate_{block}_{side}"] = Subtask(
                f"take the {colour} block and rotate it to the {side}",
                "on the table",
                (_free({block: "table"}, **{block: "table"}),),
            )
    for colour, block in zip(COLOURS, blocks, strict=True):
        for side in ("right", "left"):
            table[f"push_{block}_{side}"] = Subtask(
                f"go push the {colour} block {side}", "on the table", (_free({block: "table"}, **{block: "table"}),)
            )
    for side, other in (("left", "right"), ("right", "left")):
        table[f"move_slider_{side}"] = Subtask(
            f"push the sliding door to the {side} side", "slider", (_free({"slider": side}, slider=other),)
        )
    table["open_drawer"] = Subtask(
        "pull the handle to open the drawer", "drawer", (_free({"drawer": "open"}, drawer="closed"),)
    )
    table["close_drawer"] = Subtask(
        "push the handle to close the drawer", "drawer", (_free({"drawer": "closed"}, drawer="open"),)
    )
    for colour, block in zip(COLOURS, blocks, strict=True):
        table[f"lift_{block}_table"] = Subtask(
            f"grasp and lift the {colour} block", "lift from table", (_lift(block, **{block: "table"}),)
        )
        # The door covers the slot of its own side.
        table[f"lift_{block}_slider"] = Subtask(
            f"lift the {colour} block from the sliding cabinet",
            "lift from slider",
            tuple(
                _lift(block, slider=slider, **{block: slot})
                for slot, slider in (("slider_left", "right"), ("slider_right", "left"))
            ),
        )
        table[f"lift_{block}_drawer"] = Subtask(
            f"Take the {colour} block from the drawer",
            "lift from drawer",
            (_lift(block, drawer="open", **{block: "drawer"}),),
        )
    table["place_in_slider"] = Subtask(
        "store the grasped block in the sliding cabinet",
        "place",
        tuple(_put(block, f"slider_{side}", slider=side) for block in blocks for side in ("right", "left")),
    )
    table["place_in_drawer"] = Subtask(
        "store the grasped block in the drawer",
        "place",
        tuple(_put(block, "drawer", drawer="open") for block in blocks),
    )
    pairs = [(top, bottom) for top in blocks for bottom in blocks if top != bottom]
    stacked = {(top, bottom): {top: "stacked_top", bottom: "stacked_bottom"} for top, bottom in pairs}
    table["stack_block"] = Subtask(
        "stack the grasped block",
        "stack",
        tuple(
            _change({**stacked[top, bottom], "grasped": 0}, grasped=1, **{top: "grasped", bottom: "table"})
            for top, bottom in pairs
        ),
    )
    table["unstack_block"] = Subtask(
        "remove the stacked block",
        "unstack",
        tuple(_free({top: "table", bottom: "table"}, **stacked[top, bottom]) for top, bottom in pairs),
    )
    lights = {
        "lightbulb": "use the switch to turn {} the light bulb",
        "led": "press the button to turn {} the led light",
    }
    for light, told in lights.items():
        for word, value in (("on", 1), ("off", 0)):
            table[f"turn_{word}_{light}"] = Subtask(
                told.format(word), "light", (_free({light: value}, **{light: 1 - value}),)
            )
    table["push_into_drawer"] = Subtask(
        "slide the block that it falls into the drawer",
        "push into drawer",
        tuple(
            _free(
                {block: "drawer", "grasped": 0},
                drawer="open",
                **{other: "table" if other == block else SLOTS for other in blocks},
            )
            for block in blocks
        ),
    )
    return table


SUBTASKS = _subtasks()


def follow(condition: Condition, name: str) -> Condition | None:
    """The condition after the subtask, or None where it cannot begin, or could end in more than one way."""
    ends = [
        {**condition, **change.after}
        for change in SUBTASKS[name].changes
        if all(condition[key] in values for key, values in change.before.items())
    ]
    return ends[0] if len(ends) == 1 else None
