"""The one exception for what a user of this package can put right."""


class ScrapingError(Exception):
    """A mistake in input or settings. The message is one line that says what is wrong and what to do about it."""
