"""The only room that knows Prefect.

    building      the chain as tasks: what becomes of each stage in a run
    flows         the pipeline and each stage as flows
    experiment    the flow of an experiment
    verify        the flow that reads every file of a store
    deployments   the flows under names of their own, and the deployments that a project's files ask for
    form          the run forms of the UI, made from the configuration's models
    watching/     what people see of a run: live pages, log lines, bars on a terminal
    events        what automations can react to
    beats         how the server knows that a run is alive
    limits        slots that all machines of a server share
    deploying     work pool, limits, automations and deployments on a server
    programs      Prefect's own programs beside us, their ends and their logs
    collector     garbage collection that never stops a server
    embedded      the server of a run for which none is named
    server        `textmill up`: server, deployments, worker
    database      the server's database, looked at before it starts
    doctor        what this machine lacks

In reading order; the deployments name `deployments`, the command line calls `flows`, `deploying` and `server`.
"""

import os

from textmill.secrets import mask_logs

# Nothing is reported to anyone, and nothing advertised, unless the user asks for it. Prefect reads its settings when it
# is imported, so they are set in the one place that every module of this package passes first.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT", "false")
# The first start of the embedded server makes its database, on a busy machine in more than Prefect's 20 seconds.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
# The other packages log through the standard library; this sends their records to the run's page as well.
LOGGERS = ("flows", "scraping", "tokenization", "modeling", "textmill")
os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", ",".join(LOGGERS))
# A line from outside a run (a library's thread, a command) goes to the terminal alone, without a warning about it.
os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
# No log line says a password or a token, whichever logger it comes from.
mask_logs()
