"""The one error type that reaches a person: a single line with the field, the value and the remedy, and an exit code."""

from __future__ import annotations

EXIT_WRONG = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3


class UserError(Exception):
    """Something that the person at the keyboard can mend.

    `exit_code` follows the command line's convention: 1 something is wrong, 2 wrong usage or configuration (nothing was changed),
    3 a needed service could not be reached in time.
    """

    def __init__(self, message: str, exit_code: int = EXIT_USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code
