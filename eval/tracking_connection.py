"""Where the tracking store is, whether it answers, and one line where it does not."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldbook.errors import UserError
from fieldbook.layout import Results, lock_path
from fieldbook.locks import exclusive

if TYPE_CHECKING:  # MLflow takes a second to import
    from contextlib import AbstractContextManager

    from mlflow import MlflowClient

log = logging.getLogger(__name__)

KNOCK_S = 10  # how long a store may take to answer at all
PAUSE_S = 0.3  # between looks at a lock that another sync has
# MLflow's own patience with a server that has gone is minutes. What the user has set stays.
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PGCONNECT_TIMEOUT": str(KNOCK_S),
}
_KNOCK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(KNOCK_S)}
ADVISORY_LOCK = int.from_bytes(b"fieldbk")
"""The number that our syncs agree on in a PostgreSQL database."""
_BELOW = ("mlflow", "sqlalchemy", "sqlite3", "requests", "urllib3")


def tracking_uri(results: Results, given: str | None = None) -> str:
    """Where to log to: what is given, else ``MLFLOW_TRACKING_URI``, else SQLite under the results."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{results.tracking_db.resolve()}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a store in SQLite; None of any other."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).resolve() if uri.startswith("sqlite:///") else None


def has_locks(uri: str) -> bool:
    """Whether a store keeps syncs apart that do not know of each other."""
    return uri.startswith(("sqlite:///", "postgresql"))


def alone(uri: str, todo: str) -> AbstractContextManager[None]:
    """Keep other syncs out of a store that has locks, wherever their results are.

    MLflow's migrations are no place for two, and what another sync is at looks like what a killed one left.

    Args:
        uri: Of the store.
        todo: As for ``plain_errors``.
    """
    database = sqlite_file(uri)
    if database is not None:
        return exclusive(lock_path(database.parent, "mlflow"), f"the tracking store {database}")
    return _advisory_lock(uri, todo) if has_locks(uri) else nullcontext()


@contextmanager
def _advisory_lock(uri: str, todo: str) -> Iterator[None]:
    """Hold a lock that PostgreSQL takes back when this process or its connection dies."""
    with plain_errors(uri, todo):
        connection = _knock_at_database(uri)
        taken = _try_lock(connection)
    if not taken:
        log.info("waiting for another sync to the tracking store %s", without_password(uri))
    try:
        with plain_errors(uri, todo):
            while not taken:  # PostgreSQL would wait for us, but deaf to Ctrl-C
                time.sleep(PAUSE_S)
                taken = _try_lock(connection)
        yield
    finally:
        connection.close()


def _try_lock(connection: Any) -> bool:
    return connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({ADVISORY_LOCK})").scalar()


def connect(uri: str, results: Results) -> MlflowClient:
    """A client of a store that answers; the one in SQLite under the results is made if need be.

    Args:
        uri: Any of MLflow's tracking URIs.
        results: The folder whose studies are logged.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if sqlite_file(uri) == results.tracking_db.resolve():
        _write_ahead(results.tracking_db)
    if uri.startswith("mysql"):
        _knock_at_database(uri).close()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    if uri.startswith("http"):
        with _environment(_KNOCK):
            client.search_experiments(max_results=1)
    return client


def _write_ahead(path: Path) -> None:
    """Let MLflow's UI read while a sync writes; the file remembers it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=KNOCK_S)) as database:
        database.execute("PRAGMA journal_mode=WAL")


def _knock_at_database(uri: str) -> Any:
    """A connection of its own, outside of any transaction."""
    from sqlalchemy import NullPool, create_engine

    options = {"poolclass": NullPool, "isolation_level": "AUTOCOMMIT", "pool_reset_on_return": None}
    return create_engine(uri, connect_args={"connect_timeout": KNOCK_S}, **options).connect()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def without_password(text: str) -> str:
    """A text without the users and passwords of the addresses in it."""
    return re.sub(r"//[^/@\s]*@", "//***@", text)


@contextmanager
def plain_errors(uri: str, todo: str) -> Iterator[None]:
    """Turn whatever MLflow and what is below it raise into one line.

    Args:
        uri: Of the store; its password is not shown.
        todo: What to type once the store is back.

    Raises:
        UserError: From the block, or what came of the store's error.
    """
    logging.disable(logging.ERROR)  # of MLflow, Alembic and urllib3, each of which tells the same story in its own way
    try:
        yield
    except Exception as error:
        if not (isinstance(error, ImportError) or type(error).__module__.startswith(_BELOW)):
            raise
        text = without_password(f"cannot log to the tracking store {uri}: {_reason(error)}")
        database = sqlite_file(uri)
        if database is not None and re.search("malformed|not a database", text):
            again = f"remove {database} and mlartifacts beside it: `{todo}` makes both again from the studies' files"
            raise UserError(f"{text}; {again}") from error
        raise UserError(f"{text}; nothing is lost, `{todo}` logs what is not there yet") from error
    finally:
        logging.disable(logging.NOTSET)


def _reason(error: Exception) -> str:
    """What an error comes to, without the names of the classes that it went through."""
    text = " ".join(str(error).split()).rpartition("(Caused by ")[2].partition(" (Background on this error")[0]
    wrapped = re.fullmatch(r"""\w+\((["'])(.*)\1\)*""", text)
    return (wrapped[2] if wrapped else text)[:300]
