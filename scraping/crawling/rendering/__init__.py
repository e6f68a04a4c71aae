"""Rendering: pages that need JavaScript, in a Chromium that cannot reach the network by itself (`fetch: browser`).

In reading order:

    emptiness      whether a page has little to say without JavaScript; needs no browser
    chromium       where Chromium is, and how it is started so that nothing leaves it
    resources      what a page may load, and its answers: each request is the crawl's own, under all its rules
    serialize.js   the page's DOM as HTML
    browser        from an answer to the page that a browser makes of it
"""
