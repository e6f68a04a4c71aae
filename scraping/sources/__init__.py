"""The sites that come with Textmill: a YAML file for each (see `scraping.crawling.source`), known by its name.

python-docs.yaml   the demo's site; `python_docs.py` serves it on the loopback interface
umb-courses.yaml   a course catalog; `umb_courses.py` reads its records, and is the example of a record reader
umb.yaml           a university's site, as an example of a large public one
"""
