"""From pages and documents to one corpus. `prepare` is the table of contents; its steps, in order:

config          what a configuration says about a corpus

extract_pages   pages -> documents; drops what has no text
templates       learns the text that a site repeats on its pages; boilerplate finds and removes it
refine          removes templates, filters, signs for deduplication
recipe          which documents are worth training on: the filters in their order
filters         the filters, each with its reason to drop a document
phrases         the word lists of the filters
dedup           exact and near-duplicates, by MinHash and verified
writer          the corpus on disk: sorted, split, and what was dropped beside it
records         tables of structured records beside the corpus

hashing         words and n-grams as arrays of hashes
steps           how the parallel steps run on an executor
safeguards/     what a corpus must not hold, if a configuration says so: personal data, evaluation texts
kernels/        the inner loops, compiled
"""
