"""From text collections (OpenWebText and its relatives) to documents. Read in this order:

config      which collection, how much of it, and how much of it may be unreadable
files       the files of a collection that lies here
names       which files are collections, by their names
sniff       what a file holds, by its bytes
ingest      which files, in which order, how far; the one writer
documents   the texts of a batch as a table of documents
layouts     Parquet, archives of texts, other files: what is read in one piece, and how
records     JSON lines, CSV, separated texts: records that are read each by itself
warc        web archives: the texts of WET files, the pages of WARC files
archives    compressed streams and tar archives, read with suspicion
skipped     what gave no document: counted by reason, listed with its place
remote      collections at a URL, of a list of paths, or on the Hugging Face hub
download    one large file, however often its download breaks off
"""
