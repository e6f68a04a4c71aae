"""Artifacts: what they are, how they are told apart, and where they are kept.

    fingerprint   the identity of an artifact: a hash of everything that decides its bytes
    manifest      what an artifact is, and every file in it; its digest
    local         the store below a folder: find, lock, seal, recover, remove
    remote        the same in a bucket, with copies on this machine
    open          the store or artifact that a configuration or a command line names
    lineage       what artifacts were made from

In reading order.
"""
