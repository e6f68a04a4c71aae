"""Questions to a finished corpus, and to the records of the crawls and collections behind it. Nothing is written.

corpus       the files of a corpus as tables for DuckDB, in bounded memory
passage      from URLs and records to documents: counts that add up, by source and reason
left_out     the URLs and records that crawls and collections left out
documents    random samples, what a rule dropped, full-text search
templates    what was taken out of the texts of which sites as menus and footers
duplicates   groups of duplicates, and which document was kept of each
difference   what came, what went and what changed between two corpora, and why
trace        why a URL is in the corpus, or is not
"""
