"""LIBERO's package and files: imported without its prompt and its log, assets by variable, stored states as numbers.

The package is hf-libero (any of the packages that ship ``libero`` will do) with robosuite 1.4 and bddl; the assets
come from elsewhere. Nothing here imports torch.
"""

import functools
import importlib.util
import io
import os
import pickle
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pirl_core.envs import assets
from pirl_core.envs.libero.facts import FILES
from pirl_core.errors import UserError, first_line
from pirl_core.readers.archives import open_archive

MOST_BYTES = 2**26
INSTALL = "run make setup EXTRAS=libero"

_DATA_ONLY = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
"""All that a pickled array needs; none of it runs what the file says."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _DATA_ONLY:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def root() -> Path:
    """The folder of package ``libero.libero``, found without importing it. Raises UserError where it is missing."""
    found = importlib.util.find_spec("libero")
    if found is None or not found.submodule_search_locations:
        raise UserError(f"env.benchmark = libero needs package libero; {INSTALL}")
    return Path(next(iter(found.submodule_search_locations))) / "libero"


def scene_file(task: str) -> Path:
    """The task's description in BDDL."""
    suite, name = FILES[task]
    return root() / "bddl_files" / suite / f"{name}.bddl"


@functools.cache
def stored_states(task: str) -> np.ndarray:
    """(50, 1 + nq + nv) float64: time, joint positions and velocities of the task's stored initial states.

    The files are pickles, which may hold any program: only arrays are admitted. Raises UserError for anything else.
    """
    suite, name = FILES[task]
    return read_states(root() / "init_files" / suite / f"{name}.pruned_init")


def read_states(path: Path) -> np.ndarray:
    """One file of stored states, of torch's zip format around a pickled array."""
    again = "install hf-libero again"
    with open_archive(path, again, MOST_BYTES) as archive:
        members = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        content = archive.read(members[0]) if len(members) == 1 else b""
    try:
        states = _ArrayUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # of pickle and numpy, whatever the file provokes
        raise UserError(f"{path}: no stored states ({first_line(error)}); {again}") from None
    numbers = isinstance(states, np.ndarray) and states.dtype == np.float64 and states.nbytes <= MOST_BYTES
    if not numbers or states.ndim != 2 or not np.isfinite(states).all():
        raise UserError(f"{path}: not a table of finite numbers; {again}")
    return np.asarray(states)


@functools.cache
def problems() -> dict[str, Any]:
    """LIBERO's environment classes by the problem's name, with the assets set. Raises UserError where a package or the
    assets are missing."""
    root()
    folder = assets.find("libero")
    try:
        _quiet_robosuite()
        with _no_prompt():
            import libero.libero
        libero.libero._assets_path_cache = str(folder)  # else it looks in the package, then downloads
        from libero.libero.envs import TASK_MAPPING
    except ImportError as error:
        raise UserError(f"env.benchmark = libero: libero cannot be imported ({error}); {INSTALL}") from error
    return dict(TASK_MAPPING)


def _quiet_robosuite() -> None:
    """Import robosuite without its log, a fixed file in /tmp that a second user may not write."""
    found = importlib.util.find_spec("robosuite")
    if found is None or not found.submodule_search_locations:
        raise UserError(f"env.benchmark = libero needs package robosuite; {INSTALL}")
    name = "robosuite.macros"
    if name not in sys.modules:
        path = Path(next(iter(found.submodule_search_locations))) / "macros.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        macros = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(macros)
        vars(macros).update(FILE_LOGGING_LEVEL=None, CONSOLE_LOGGING_LEVEL="ERROR")
        sys.modules[name] = macros


@contextmanager
def _no_prompt() -> Iterator[None]:
    """A configuration file where LIBERO looks for one; without it the import asks questions on standard input."""
    variable = "LIBERO_CONFIG_PATH"
    before = os.environ.get(variable)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.yaml").write_text("{}\n")
        os.environ[variable] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[variable]
            else:
                os.environ[variable] = before
