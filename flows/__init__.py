"""The orchestration: stages over artifacts, the pipeline, and Prefect.

    store      artifacts: what they are, how they are told apart, where they are kept
    engine     the stage contract: identity, reuse, resumption, sealing; executors
    stages     one file a stage
    pipeline   configuration, chain, plan, garbage collection
    service    Prefect: flows, deployments, events, progress, pages, limits, the server and its workers
    cli        the command line

Each room knows only those above it in this list.
"""
