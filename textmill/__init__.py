"""The ground floor: what every package of the project builds on. It knows nothing above it, and only the standard
library, pydantic and yaml beside it.

    errors      a mistake that its user can mend, and what is away for now
    secrets     passwords and tokens, kept out of all that is written
    addresses   URLs in settings that name a variable of the environment in place of a secret
    progress    the callback that long-running functions call
    files       files and folders that exist whole or not at all
    rows        JSON lines and tables, each row with where it is, for messages
    contents    the SHA-256 of files, each read once a process
    disk        a full or a forbidden disk, in one line, and no half a folder
    mapping     where a function is called for many shards, and the in-order map behind it
    kept        work on shards whose finished pieces survive a kill
    settings    YAML into pydantic models, mistakes with their line; settings that cannot change an output
    imports     what a source file imports, and which of a user's own files a module runs on
    processes   child processes that end with their parent
    kernels/    how functions are compiled by Numba; the one room here that knows Numba
"""
