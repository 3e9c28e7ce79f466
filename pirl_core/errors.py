"""The one error a user is meant to read: bad input, said in one line."""


class UserError(Exception):
    """Bad parameters, data or folders. The message names the key, the value and the remedy, in one line.

    The command line prints it without a traceback and exits with code 2 (``pirl_core.stages.cli``).
    """
