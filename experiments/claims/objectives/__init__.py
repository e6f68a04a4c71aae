"""Claims about what a network is trained to predict."""
