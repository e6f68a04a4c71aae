"""The one exception a user of this package has to know."""


class TokenizationError(Exception):
    """A mistake in the input or the configuration; the message is one line and says what to do."""
