"""The one exception that a user is meant to read."""


class KdlibError(Exception):
    """Something the user can mend, said in one line: what was wrong, and what is allowed.

    The command line prints the message alone, without a traceback, and exits with 2.
    """
