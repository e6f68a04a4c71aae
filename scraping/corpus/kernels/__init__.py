"""The inner loops of corpus making, compiled by Numba (`textmill/kernels/jit.py` tells how).

- `reference.py`, first: what they compute, in plain Python, with which the tests compare the kernels.
- `characters.py`: what is known of each code point.
- `words.py`: the words of a text, their hashes, and those of their n-grams.
- `counts.py`: what the filters count in a text.
- `edges.py`: what pages of a site have in common at their edges.
- `lookup.py`: which runs of words are among many known ones.
- `buckets.py`: which documents share a bucket with another.
- `plain.py`: whether a text is in normal form already.
- `fasttext.py`: the language of a text, by a fastText model.
"""
