"""Claims about networks and their parts."""
