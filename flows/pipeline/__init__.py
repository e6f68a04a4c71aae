"""The pipeline: which stages, in which order, with which configuration; no Prefect.

    request     a run that was asked for: loaded once, planned once
    config      one section a stage, read from YAML, overridable key by key
    project     what the files of a folder declare: pipelines and sources
    chain       the order of the stages and what each is given, written once
    selection   which stages are run, and which of them again
    plan        what a run would do, and why
    inventory   what a store holds, and in which state
    corpus      the corpus that a configuration or an artifact stands for, and the records behind it
    exploration questions to it, and what is shown of the answers
    experiments/  the runs of an experiment, and what is kept of them
    gc          what a store holds that no configuration refers to
    verify      whether the files of a store still are what was sealed
    reproduce   the configuration that an artifact was made with

In reading order; `request` is where a run begins.
"""
