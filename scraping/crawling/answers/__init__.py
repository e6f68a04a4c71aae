"""What a server's answer says to a crawler besides its text.

In alphabetical order:

    compression   bodies and files that come compressed
    cookies       what a host wants to be told again, within one crawl
    reservations  which pages may be read, but not be kept for training
"""
