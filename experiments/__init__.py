"""Claims put to the test, so that anyone can do it again: `textmill experiment run NAME`.

Read in this order:

    declaration  what an experiment is: a claim, variants, the figure that decides, what must be equal
    data         which choices about data a pipeline has, as variants of it
    catalog      which there are: the claims of the report, and files of anybody's own
    sweep        values to choose from: the best one, and whether a better one may lie beyond
    outcome      what a run gave, and what all of them say together
    statistics   what a few seeds can say
    verdict      from figures to agree, disagree, or cannot tell
    training     small networks, for claims that measure these by themselves
    timing       the shortest time of a piece of work
    library      text that every interpreter carries, for what is measured without a corpus
    claims/      the experiments themselves, one module each
    results/     what came out of full runs, one file each; RESULTS.md is written from them

`flows/pipeline/experiments/` says which runs an experiment comes to, and `flows/service/experiment.py` runs them
through the pipeline: what the variants have in common is built once, and what another experiment has built is not built
again.
"""
