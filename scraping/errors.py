"""What scraping tells a user: mistakes to mend, and what is away."""


class ScrapingError(Exception):
    """Bad input to scraping or ingestion; the message is one line and says what to do about it."""


class Unavailable(ScrapingError):
    """What failed lies outside (a host that gave up, an unreachable hub, a broken download): later it may work."""
