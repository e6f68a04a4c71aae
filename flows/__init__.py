"""Everything that knows Prefect: the stage contract, the store, the pipeline, the command line."""

import os

# Nothing is reported to anyone unless the user asks for it. Prefect reads both when it is imported,
# so they are set in the one place that every module of this package passes first.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# The first start of the embedded server makes its database, on a busy machine in more than Prefect's 20 seconds.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
# The domain packages log through the standard library; this sends their records to the run's page as well.
os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "flows,scraping,tokenization,modeling")
