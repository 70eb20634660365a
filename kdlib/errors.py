"""The one exception that a user is meant to read."""


class KdlibError(Exception):
    """Something the user can mend, said in one line: what was wrong, and what is allowed.

    The command line prints the message alone, without a traceback, and exits with 2.
    """


class Missing(KdlibError):
    """The object is not in the store; it may come yet."""


class Damaged(KdlibError):
    """The object was truncated or altered, or kdlib did not write it."""


class Unreachable(KdlibError):
    """The store did not answer; it may later."""
