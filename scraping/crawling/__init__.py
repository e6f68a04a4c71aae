"""Crawling: from a declared site to a snapshot of its pages, politely, and continued after a kill -9.

In reading order, from the bottom up; no file imports one that comes later:

    urls          one spelling per page
    politeness    one request at a time and a pause between requests, per host and address, for the whole machine
    connections   one connection per host, so many at most, to an address that was vetted first
    answers       (a room) compression and cookies, which come before fetch; reservations, which come after links
    fetch         one bounded request
    links         a page's links, canonical URL and robots directives
    robots        robots.txt by RFC 9309, and what holds where it cannot be had
    sitemap       what a site lists by itself
    scope         which URLs belong to a source, and which are traps
    source        the declaration of a site: its settings, read from YAML
    frontier      every URL of a crawl and what became of it, in SQLite
    snapshot      the folder that a crawl leaves; what the next crawl and its readers see of it
    rendering     (a room) pages that need JavaScript, in a browser; comes after source
    state         what the threads of a crawl share
    worker        one origin's part of a crawl
    crawl         the crawl
    preview       what a crawl would make of a few pages, without keeping anything
    declare       a first source file for a new site
"""
