"""How long work tells where it stands: it calls `progress(done, total, unit="documents", tokens=1234)` now and then."""


def quiet(done: int, total: int | None, **figures: object) -> None:
    """A progress callback that tells nobody. `total` is None while unknown, `figures` are what else there is to say."""
