"""Byte-level BPE: training, encoding, the formats of others, and token arrays. A plain library: it knows no pipeline.

What to read, in this order:

- `kernels/reference.py`, first: the algorithms in plain Python. The other kernels do the same, compiled by Numba.
- `patterns.py`: the regular expressions that cut text into words.
- `text.py`: documents of files and strings, on their way to the kernels.
- `tokenizer.py`: text to ids and back.
- `rules.py`: what Hugging Face's tokenizers do to a text before words are cut.

Tokenizers:
- `config.py`: the configs of all stages of this package.
- `train.py`: a corpus to a tokenizer; `counting.py` counts its words, shard by shard.
- `formats.py`: tokenizers as our files, which Hugging Face and tiktoken read too.
- `hugging_face/`: tokenizer.json, written and read.
- `interchange.py`: tokenizers of others, read and written.
- `compare.py`: what several tokenizers make of one text.

Token arrays:
- `arrays.py`: their format, and how they are read.
- `sources.py`: the tokens of one source among them.
- `pretokenize.py`: a corpus to token arrays.
- `sentence_pairs.py`: a corpus to token arrays of sentences, in pairs.
- `text_pairs.py`: files of sources and targets to token arrays.
- `shard_writer.py`: what these share: the files of a shard, and all shards of a corpus.
- `token_files/`: token files of other trainers, read and written.
"""
