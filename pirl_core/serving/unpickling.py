"""The pickles of LeRobot's asynchronous inference, read without running anything in them, and written.

Its clients send ``pickle.dumps`` of their own classes. Of a pickle's opcodes those alone are taken that such a message
has, and of names those of ``ALLOWED``, each of which stands for a class of this module that only keeps what it is
given. Nothing is imported, and numpy's own functions are not called before sizes and dtype have been looked at. All of
them are classes with a ``__setstate__``: on whatever has none a pickle may set attributes, and change it for good.
"""

import io
import pickle
import pickletools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pirl_core.errors import first_line
from pirl_core.serving.packing import array

HELPERS = "lerobot.async_inference.helpers"
MOST_OPCODES = 100_000
# Marks, constants, containers, the memo, and what makes objects. None that loads by number (EXT1) or from outside
# (PERSID).
_OPCODES = """
PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE
SHORT_BINUNICODE SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_LIST APPEND APPENDS LIST EMPTY_TUPLE TUPLE TUPLE1
TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS BINGET LONG_BINGET BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL
REDUCE NEWOBJ BUILD
"""
OPCODES = frozenset(_OPCODES.split())


class Fields:
    """An object of the client's: its attributes, and nothing that it could do."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise ValueError("the state of an object is no map of its fields")
        self.fields = state


class RemotePolicyConfig(Fields):
    """What the client expects of the server."""


class TimedObservation(Fields):
    """Timestamp, timestep, observation, and whether it must be answered."""


class _DType:
    def __init__(self, *given: object) -> None:
        self.name, self.order = (given[0] if given else None), "="

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("a dtype that is no plain number's")
        self.order = state[1]


class _Array:
    """Of numpy's ndarray what its pickle says; ``value`` is it."""

    def __init__(self, *given: object) -> None:
        self.value: Any = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("the state of an array is not numpy's")
        _, shape, dtype, fortran, data = state
        self.value = _view(data, dtype, shape, bool(fortran))


class _Function:
    """What in numpy is one; a call of it gives something else."""

    def __setstate__(self, state: object) -> None:
        raise ValueError("a function has no state")


class _Reconstruct(_Function):
    """``_reconstruct``: an array that its ``__setstate__`` will fill."""

    def __new__(cls, *given: object) -> Any:
        return _Array()


class _FromBuffer(_Function):
    """``_frombuffer``."""

    def __new__(cls, data: object = None, dtype: object = None, shape: object = None, order: object = "C") -> Any:
        made = _Array()
        made.value = _view(data, dtype, shape, order == "F")
        return made


class _Scalar(_Function):
    """``scalar``."""

    def __new__(cls, dtype: object = None, data: object = None) -> Any:
        return _view(data, dtype, (), False)[()]


def _view(data: object, dtype: object, shape: object, fortran: bool) -> np.ndarray:
    if not isinstance(dtype, _DType) or not isinstance(dtype.name, str):
        raise ValueError("an array without a dtype")
    sides = shape if isinstance(shape, tuple) else ()
    held = bytes(data) if isinstance(data, bytearray) else data
    values = array(held, f"{dtype.order}{dtype.name}", sides[::-1] if fortran else sides)
    return values.T if fortran else values


# numpy 1 has its modules under core, numpy 2 under _core.
ALLOWED: dict[tuple[str, str], Any] = {
    (HELPERS, "RemotePolicyConfig"): RemotePolicyConfig,
    (HELPERS, "TimedObservation"): TimedObservation,
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Array,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise ValueError(f"{module}.{name} is not allowed here")
        return ALLOWED[module, name]


def read(payload: bytes, kind: type[Fields]) -> dict[str, Any]:
    """Fields of the object of this kind that the pickle holds, arrays as numpy's.

    Raises ValueError in one line for anything else, after nothing of it was run.
    """
    try:
        _check_opcodes(payload)
        found = _Reader(io.BytesIO(payload)).load()
    except Exception as error:  # pickle raises whatever the bytes provoke
        raise ValueError(f"pickle of {len(payload)} bytes: {first_line(error)}") from None
    if not isinstance(found, kind):
        raise ValueError(f"a {type(found).__name__} instead of a {kind.__name__}")
    fields: dict[str, Any] = _plain(found.__dict__.get("fields", {}), 0)
    return fields


def _check_opcodes(payload: bytes) -> None:
    """The memo is a table that the reader makes as long as the largest number in it, so these are looked at too."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(payload)):
        if opcode.name not in OPCODES or count > MOST_OPCODES:
            raise ValueError(
                f"opcode {opcode.name} is not allowed here" if count <= MOST_OPCODES else "too many opcodes"
            )
        if "PUT" in opcode.name and isinstance(argument, int) and argument > MOST_OPCODES:
            raise ValueError(f"a memo of {argument} entries")


def _plain(value: Any, depth: int) -> Any:
    if depth > 8:
        raise ValueError("the pickle's objects are too deep in one another")
    if isinstance(value, dict):
        return {key: _plain(part, depth + 1) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, depth + 1) for part in value]
    return value.value if isinstance(value, _Array) else value


def timed_actions(rows: Sequence[tuple[float, int, np.ndarray]]) -> bytes:
    """``list[TimedAction]`` as the client's own pickle would be: timestamp, timestep and a tensor of each.

    Written opcode by opcode around pickles of the arguments, since the class is not here: for each PUSH of its name,
    the tuple of arguments, and the call.
    """
    named = b"c" + HELPERS.encode() + b"\nTimedAction\n"
    # Without the two bytes of the protocol's version in front, and the stop behind.
    calls = [
        named + pickle.dumps((float(stamp), int(step), torch.from_numpy(action)), 2)[2:-1] + b"R"
        for stamp, step, action in rows
    ]
    return b"\x80\x02](" + b"".join(calls) + b"e."
