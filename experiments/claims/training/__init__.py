"""Claims about how a network is trained."""
