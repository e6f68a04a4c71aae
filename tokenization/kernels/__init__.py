"""The kernels: byte pair encoding compiled by Numba. `textmill/kernels/jit.py` tells how.

What to read, in this order:

- `reference.py`, first: the algorithms in plain Python, which the tests compare with the kernels.

From text to words:
- `scanner.py`: documents to words, by the split patterns; its fast level is `windows.py`.
- `unicode_classes.py`, `unicode_data.py`: letters, digits, blanks …, as tiktoken sees them.

From words to merges (training):
- `word_table.py`: a hash table of words, and how kernels are handed tables.
- `word_counts.py`: how often every word occurs.
- `cells.py`: distinct words laid out so that merging is cheap, and the counts of their pairs.
- `candidates.py`: the pairs that may be merged next.
- `merges.py`: all merges, the most frequent pair first.

From words to ids (encoding):
- `vocabulary.py`: tokens and the pairs that merge into them, as tables.
- `encoder.py`: words to ids, merged once and then remembered.

From ids to batches:
- `gather.py`: windows of a mapped file, in a random order that is never stored.
"""
