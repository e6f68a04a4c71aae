"""The exceptions that are told to a user as one line, without a traceback, and that line of any other."""

from __future__ import annotations

from textmill.secrets import mask

__all__ = ["Diverged", "Unavailable", "UserError", "first_line"]


class UserError(Exception):
    """A mistake that its user can mend: a setting, a file, a command.

    The message is one line that says what is wrong, where, and what to do about it. The command line prints it and
    exits with status 2; a Prefect run fails with it and is not tried again. Secrets in it are masked.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(mask(message))


class Unavailable(UserError):
    """Something outside does not answer now (a host, a hub, a broken download): the same call may work later."""


class Diverged(UserError):
    """A training that came to numbers that are not finite: with other rates it may not."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its type where it says nothing.

    Example:
        >>> first_line(OSError("cannot read\nmore")), first_line(EOFError())
        ('cannot read', 'EOFError')
    """
    return (str(error).splitlines() or [""])[0] or type(error).__name__
