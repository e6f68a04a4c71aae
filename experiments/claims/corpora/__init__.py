"""Claims about the text that is trained on."""
