"""The one exception for mistakes a user can mend."""


class ModelingError(Exception):
    """A wrong input or setting; the message is one line that says what to do."""
