"""What a policy reads and moves, by name: beside its weights, so that who drives it needs no params.yaml."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from pirl_core.errors import UserError
from pirl_core.facts import facts_in
from pirl_core.params.sections import Env
from pirl_core.readers.text import read_json
from pirl_core.readers.typed import Strict, check

FILE = "interface.json"


class Interface(NamedTuple):
    """benchmark: as params.yaml names it, "" for none. cameras: in the order of an observation's images. state, action:
    names of the numbers, in simulator units. rate: actions a second; None where no benchmark says. instructions: every
    sentence that training may have told."""

    benchmark: str
    cameras: list[str]
    state: list[str]
    action: list[str]
    rate: float | None
    instructions: list[str]


class _Interface(Strict):
    benchmark: str
    cameras: list[str]
    state: list[str]
    action: list[str]
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    instructions: list[str]


def interface_of(env: Env, state_numbers: int, action_numbers: int, instructions: list[str]) -> Interface:
    """Of a policy that is trained in ``env``. What object state adds to the named numbers is object0, object1, …; where
    no benchmark has names they are state0, action0 and so on."""
    facts = facts_in(env)
    state = numbered(facts.state, "object" if facts.state else "state", state_numbers)
    action = numbered(facts.action, "action", action_numbers)
    return Interface(env.benchmark or "", list(env.cameras), state, action, facts.rate or None, instructions)


def numbered(names: Sequence[str], rest: str, count: int) -> list[str]:
    """``count`` names, of which those after ``names`` are counted: object0, object1, …"""
    return [*names, *(f"{rest}{number}" for number in range(count - len(names)))]


def read_interface(path: Path, sizes: tuple[int, int, int], remedy: str) -> Interface:
    """sizes: cameras, state numbers and action numbers of the policy.

    Raises UserError for a file that is damaged, or of another policy.
    """
    found = Interface(**check(_Interface, read_json(path, remedy), str(path), remedy).model_dump())
    for name, count in zip(("cameras", "state", "action"), sizes):
        names: list[str] = getattr(found, name)
        if len(names) != count or len(set(names)) != count:
            raise UserError(f"{path}: {name} has {len(names)} names, the policy {count} of them, each once; {remedy}")
    return found
