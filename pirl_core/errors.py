"""The errors a user is meant to read, each said in one line."""


class UserError(Exception):
    """Bad parameters, data or folders. The message names the key, the value and the remedy, in one line.

    The command line prints it without a traceback and exits with code 2 (``pirl_core.stages.cli``).
    """


def first_line(error: BaseException, most: int = 120) -> str:
    """Its message up to the line's end and ``most`` characters; the error's type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:most] if lines else type(error).__name__


class WorkerDied(RuntimeError):  # noqa: N818 - says what happened
    """A simulator process ended on its own, for lack of memory say; the others have been closed. Exit code 1."""
