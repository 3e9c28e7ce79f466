"""The errors a user is meant to read, each said in one line."""

import errno
import os

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_IN_THE_WAY = {
    errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG,
}  # fmt: skip


class UserError(Exception):
    """Bad parameters, data or folders. The message names the key, the value and the remedy, in one line.

    The command line prints it without a traceback and exits with code 2 (``pirl_core.stages.cli``).
    """


def told(error: UserError | OSError) -> str | None:
    """What the user reads of it, and mends: bad input, a full disk, a path that something else stands at.

    None for another failure of the system, which a rerun may not meet.
    """
    if isinstance(error, UserError):
        return str(error)
    if error.errno in NO_ROOM:
        path = error.filename2 or error.filename
        where = f" for {path}" if path else ""
        return f"no room{where} ({os.strerror(error.errno)}); free some, a rerun goes on from there"
    if error.errno in _IN_THE_WAY and error.filename:
        said = os.strerror(error.errno)
        return f"{error.filename} cannot be used ({said}); move away what is in its place, or give yourself the right"
    return None


def first_line(error: BaseException, most: int = 120) -> str:
    """Its message up to the line's end and ``most`` characters; the error's type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:most] if lines else type(error).__name__


class WorkerDied(RuntimeError):  # noqa: N818 - says what happened
    """A simulator process ended on its own, for lack of memory say; the others have been closed. Exit code 1."""
