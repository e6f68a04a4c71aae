"""What people see of a run while it works, and when it is done.

    progress    where a stage stands: its log lines, its live page
    live        pages that are changed in place while the run works
    pages       what a stage and a run leave in the Prefect UI
    markdown    what comes from outside stays text
    terminal    bars below the log
    metrics     Prometheus gauges

In reading order.
"""
