"""Checkpoints that are more than the files of one process's run.

sharded    of a model that is sharded over ranks
extending  kept beside a result, for a longer run to go on from
"""
