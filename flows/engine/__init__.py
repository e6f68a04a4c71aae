"""The mechanism of stages, written once for all of them; no Prefect.

    stage         what a stage declares, and what it is given to work with
    assess        reuse or build, and why, without doing any work
    materialize   the artifact of a stage: reused, or built in a work folder that survives crashes, and sealed
    page          what a stage shows of its result, whatever draws it
    figures       plots as SVG
    executors     where shards are worked on: here, in processes, on Dask or Ray
    clusters      Dask workers as jobs of a batch system
    devices       one training a GPU
    training      a training as a child of its stage
    mixture       what is said of the sources of a training
    extending     trainings that go on from one in the store
    precompile    all kernels compiled, before anything needs them

In reading order.
"""
