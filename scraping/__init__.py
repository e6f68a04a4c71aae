"""From web sites and collections to a corpus. A plain library: it knows neither Prefect nor tokenizers nor models.

crawling/     a declared site -> a snapshot of its pages
collections/  archives, Parquet, JSON Lines, CSV, plain text -> documents
extraction/   the bytes of a page -> its text
corpus/       pages and documents -> a corpus without duplicates, split into train and validation
explorer/     questions to a finished corpus, and to the records behind it
sources/      the declarations of the sites that come with Textmill, and what some of them need beside that
warc.py       a snapshot -> web archives
shards.py     the Parquet files that all of these write and read
"""
