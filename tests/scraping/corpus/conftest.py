"""A kernel may be compiled in the first example of a test, which takes seconds."""

from hypothesis import settings

settings.register_profile("compiles", deadline=None)
settings.load_profile("compiles")
