"""The errors a user is meant to read, each said in one line."""


class UserError(Exception):
    """Bad parameters, data or folders. The message names the key, the value and the remedy, in one line.

    The command line prints it without a traceback and exits with code 2 (``pirl_core.stages.cli``).
    """


class WorkerDied(RuntimeError):  # noqa: N818 - says what happened
    """A simulator process ended on its own, for lack of memory say; the others have been closed. Exit code 1."""
