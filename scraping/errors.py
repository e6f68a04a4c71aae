"""The one exception for mistakes that a user can mend."""


class ScrapingError(Exception):
    """Bad input to scraping or ingestion; the message is one line and says what to do about it."""
