"""The database of trials: opened, and its troubles as plain errors."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial
from sqlalchemy.engine import URL, make_url

from moonshine_tune.core.errors import MachineError, RequestError
from moonshine_tune.core.text import first_line

# A trial whose machine has not been heard of for GRACE_S is given to another one. The price of a
# short time is work done twice when a laptop sleeps; of a long one, waiting.
HEARTBEAT_S = 30
GRACE_S = 300
# Of two processes that find an empty database, both make its tables and one is refused: it finds
# them made when it looks again.
_PAUSES_S = (0.2, 0.5, 1.0, 2.0)
_MADE_TWICE = (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError)


def masked(url: str) -> str:
    """A database URL without its password, fit to be written down.

    Raises:
        RequestError: it is no database URL.
    """
    return _parsed(url).render_as_string(hide_password=True)


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except sqlalchemy.exc.ArgumentError as error:
        raise RequestError(
            "--storage is not a database URL",
            hint="such as postgresql+psycopg://user@host/database or sqlite:////path/trials.db",
        ) from error


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn a database that is locked, gone or refuses into one plain error."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        cause = error.__cause__ or error
        first = first_line(getattr(cause, "orig", None) or cause)
        raise MachineError(
            f"the database of trials cannot be used: {first}",
            where=masked(url),
            hint="what was trained is in the trials folder; mend it and run the same command again",
        ) from error


def open_storage(
    url: str, on_stale: Callable[[optuna.Study, FrozenTrial], None] | None
) -> optuna.storages.RDBStorage:
    parsed = _parsed(url)
    connect: dict[str, Any] = {}
    if parsed.get_backend_name() == "sqlite":
        # Another process may hold the file for a moment: wait for it.
        connect = {"connect_args": {"timeout": 60}}
    else:
        connect = {"pool_pre_ping": True}

    def opened() -> optuna.storages.RDBStorage:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return optuna.storages.RDBStorage(
                url,
                engine_kwargs=connect,
                heartbeat_interval=HEARTBEAT_S if on_stale else None,
                grace_period=GRACE_S if on_stale else None,
                heartbeat_stale_trial_callback=on_stale,
            )

    try:
        with storage_errors(url):
            for pause in _PAUSES_S:
                try:
                    return opened()
                except _MADE_TWICE:
                    time.sleep(pause)
            return opened()
    except ImportError as error:
        raise MachineError(
            f"the driver for {parsed.drivername} is not installed",
            hint='pip install "moonshine-tune[postgresql]", with postgresql+psycopg://…',
        ) from error
