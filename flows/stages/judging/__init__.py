"""Stages by which experiments judge models that were trained on different text.

held_out    corpora -> text that one of them sets aside and none would train on
evaluation  a model and such text -> bits per byte, of all and of each source
"""
