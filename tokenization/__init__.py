"""Byte-level BPE: training, encoding, the formats of others, and token arrays."""
