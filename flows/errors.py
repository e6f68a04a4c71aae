"""Mistakes that a user can mend: one line that says what to do, exit code 2, no traceback."""

from __future__ import annotations

from modeling.errors import ModelingError
from scraping.errors import ScrapingError
from tokenization.errors import TokenizationError


class FlowError(Exception):
    """A configuration, store or command that cannot work; the message is one line that says what to do."""


USER_ERRORS = (FlowError, ScrapingError, TokenizationError, ModelingError)
