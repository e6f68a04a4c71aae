"""Read every file of a store on a schedule: a run that finds damage fails with the list of it."""

from __future__ import annotations

from pathlib import Path

from prefect import State, flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.pipeline.verify import Verification, to_read
from flows.pipeline.verify import verify as verify_artifacts
from flows.service.beats import beating
from flows.service.watching.live import BestEffort, Watch
from flows.service.watching.pages import key_of
from flows.service.watching.progress import StageProgress
from textmill.errors import UserError
from textmill.secrets import masked_errors

DEFAULT_STORE = "store"


def run_name() -> str:
    """What is read: a configuration's artifacts, or a store."""
    config, store = flow_run.parameters["config"], flow_run.parameters["store"]
    return f"verify {Path(config).stem if config else store}"


@flow(name="verify", flow_run_name=run_name, persist_result=False)
@beating()
@masked_errors()
def verify(config: str = "", store: str = DEFAULT_STORE) -> State[Verification]:
    """Compare the SHA-256 of every file with what was sealed; damage makes the run fail, with the list of it.

    Args:
        config: path of a configuration, to read the artifacts that it uses in its own store; left empty: everything in
            `store`.
        store: folder or URL of the store, where no configuration is given.
    """
    logger = get_run_logger()
    opened, names = to_read(Path(config) if config else None, store)
    with Watch() as watch:
        progress = StageProgress("verify", logger, logs=watch.bars is None)
        with watch.bar(progress):
            verification = verify_artifacts(opened, names, progress)
    BestEffort(logger)(_publish, verification)
    if verification.damaged:
        damaged = "; ".join(f"{found.location}: {found.damage}" for found in verification.damaged)
        raise UserError(f"{verification.summary}; {verification.remedy(config)}. {damaged}")
    return Completed(message=verification.summary, data=verification)


def _publish(verification: Verification) -> None:
    """The page of a verification: what is damaged, one row each."""
    rows = [
        {"artifact": found.location, "stage": found.title, "made for": found.pipeline, "damage": found.damage}
        for found in verification.damaged
    ]
    key = key_of(f"verify {verification.store}")
    create_table_artifact(rows or [{"damaged": "nothing"}], key=key, description=verification.summary)
