"""From text collections (OpenWebText and its relatives) to documents. Read in this order:

config      which collection, and how much of it
files       the files of a collection that lies here
names       which files are collections, by their names
ingest      which files, in which order, how far; the one writer
documents   the texts of a batch as a table of documents
layouts     Parquet, JSON lines, archives of texts: what is read in one piece, and how
archives    compressed streams and tar archives, read with suspicion
remote      collections at a URL or on the Hugging Face hub
download    one large file, however often its download breaks off
"""
