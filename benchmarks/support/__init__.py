"""What benchmarks share.

    corpora         texts to measure on
    training_data   token arrays to train on
    sites           documentation to crawl, from Debian's packages
    timing          contestants in turn, each in a process of its own
    peers           peers that run from a checkout
    report          rows, tables and JSON

In reading order.
"""
