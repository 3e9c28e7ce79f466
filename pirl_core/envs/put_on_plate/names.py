"""What the put-on-plate episodes are made of: objects, receptacles, tables and sentences, in the assets' order.

The folder of number i begins with i + 1 in three digits (``001_carrot_simpler``); RL4VLA, Liu et al. 2025.
"""

OBJECTS = (
    "carrot", "kitchen shovel", "bread", "plastic bottle", "7up can", "zuchinni", "ketchup bottle", "watering can",
    "pipe", "toy bear", "fast food cup", "plant", "banana", "hamburger", "golf ball", "BBQ sauce", "travel cup",
    "pepper", "nonstop can", "potato", "baguette", "champagne glass", "kitchen spoon", "onion", "cup",
)  # fmt: skip
"""The first 16 are for training, 9 are unseen."""

PLATES = (
    "plate", "cloth", "carpet", "newspaper", "sheet metal", "drawing tablet", "tomato slice", "pizza", "flat bowl",
    "gramophone disk", "frying pan", "mouse pad", "cutting board", "chess board", "manhole cover", "envelope",
    "notepad",
)  # fmt: skip
"""Training knows the first one alone, 16 are unseen."""

TABLES = 21
"""Pictures of tables, a texture beside each; the first 16 are for training, 5 are unseen."""

TEMPLATES = (
    "put $C$ on $P$",
    "Place the $C$ on the $P$",
    "set $C$ on $P$",
    "move the $C$ to the $P$",
    "Take the $C$ and put it on the $P$",
    "pick up $C$ and set it down on $P$",
    "please put the $C$ on the $P$",
    "Put $C$ onto $P$.",
    "place the $C$ onto the $P$ surface",
    "Make sure $C$ is on $P$.",
    "on the $P$, put the $C$",
    "put the $C$ where the $P$ is",
    "Move the $C$ from the table to the $P$",
    "Move $C$ so it’s on $P$.",
    "Can you put $C$ on $P$?",
    "$C$ on the $P$, please.",
    "the $C$ should be placed on the $P$.",
    "Lay the $C$ down on the $P$.",
    "could you place $C$ over $P$",
    "position the $C$ atop the $P$",
    "Arrange for the $C$ to be resting on $P$.",
)
"""Training hears the first one; ``instruct`` the next 16; the last four are never reached."""


def sentence(template: int, thing: int, plate: int) -> str:
    return TEMPLATES[template].replace("$C$", OBJECTS[thing]).replace("$P$", PLATES[plate])
