"""Claims about byte pair encoding."""
