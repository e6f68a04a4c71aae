"""From a declared experiment to its runs, and from what they gave to a page of verdicts.

Read in this order:

    trials    which runs: every variant, every value that is swept, the best of them with every seed
    estimate  how long they will take, by what the store's artifacts took
    keeping   results as files that are kept: with machine, commit and date
    chapter   all kept results as one page, and as RESULTS.md
"""
