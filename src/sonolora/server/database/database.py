"""Transactions on the server's database, in the same words for every dialect.

In: statements of SQLAlchemy on the tables of `tables`. Out: rows, or `StoreError` when the database cannot be used.
`sqlite` and `postgres` each open one; what is particular to a dialect is in them and in the column types and indexes
of `tables`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import anyio.to_thread
from sqlalchemy import ClauseElement, Connection, Engine, Executable, Select, Table, event
from sqlalchemy.engine import ExceptionContext

from sonolora.server.database.faults import StoreError

P = ParamSpec("P")
T = TypeVar("T")


class Database:
    """Any thread may call; each method is one transaction, and a write is on the disk when it returns.

    A read sees what was committed before it began. Raises `StoreError` when the database cannot be used.
    """

    address: Path | str  # as `open_database` takes it
    is_local = True  # a read takes microseconds; else it waits for a network

    def __init__(self, writer: Engine, reader: Engine, insert: Callable[[Table], Any]) -> None:
        """`insert` makes the dialect's statement, which knows `on_conflict_do_update`."""
        self._writer, self._reader, self._insert = writer, reader, insert
        self._texts: dict[ClauseElement, tuple[str, Sequence[str] | None]] = {}
        for engine in (writer, reader):
            event.listen(engine, "handle_error", self._translate)

    def close(self) -> None:
        self._writer.dispose()
        self._reader.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A write transaction: all of the block is kept or none."""
        with self._writer.begin() as connection:
            yield connection

    def write(self, statement: Executable, parameters: Any = None) -> int:
        """One statement in a transaction of its own; returns the number of rows that it changed."""
        with self.transaction() as connection:
            return connection.execute(statement, parameters).rowcount

    def read(self, statement: Select[Any]) -> Sequence[Any]:
        """The rows of a query."""
        with self._reader.connect() as connection:
            return connection.execute(statement).all()

    def look(self, call: Callable[[Connection], T]) -> T:
        """What a call returns that makes several queries and changes nothing."""
        with self._reader.connect() as connection:
            return call(connection)

    def fetch(self, query: ClauseElement, **parameters: str | float) -> Sequence[Any]:
        """The rows of a query that runs often, as the driver gives them: a fifth of the time of `read`.

        The query is translated once, so it must be a constant, whose parameters have names.
        """
        sql, order = self._texts.get(query) or self._text(query)
        connection = self._reader.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute(sql, parameters if order is None else [parameters[name] for name in order])
            return cursor.fetchall()
        except Exception as error:
            if fault := self._fault(error):
                connection.invalidate()
                raise fault from error
            raise
        finally:
            connection.close()

    def upsert(self, table: Table) -> Executable:
        """A statement that inserts rows, each in place of an earlier one with its primary key."""
        new = self._insert(table)
        values = {column.name: new.excluded[column.name] for column in table.c if not column.primary_key}
        return new.on_conflict_do_update(index_elements=list(table.primary_key), set_=values)  # type: ignore[no-any-return]

    def tell(self, transaction: Connection, id: str) -> None:
        """Once the transaction is committed, let the server know at once that somebody has changed this request.

        Where a dialect cannot, as here, the server looks now and then.
        """

    def queue_up(self, transaction: Connection, name: str) -> None:
        """Until the transaction ends, be the only one of this name, so that what it counts stays true.

        Where there is only one writer at a time, as here, that is so.
        """

    async def reading(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something that only reads: here where that takes microseconds, else in a thread.

        The event loop never waits for a network, and where there is none it is spared the threads.
        """
        if self.is_local:
            return call(*args, **kwargs)
        return await anyio.to_thread.run_sync(partial(call, *args, **kwargs))

    def _text(self, query: ClauseElement) -> tuple[str, Sequence[str] | None]:
        compiled = query.compile(dialect=self._reader.dialect)
        self._texts[query] = str(compiled), getattr(compiled, "positiontup", None)
        return self._texts[query]

    def _fault(self, error: BaseException) -> StoreError | None:
        """What an error of the driver means, if the fault is not the statement's."""
        raise NotImplementedError

    def _translate(self, context: ExceptionContext) -> None:
        if fault := self._fault(context.original_exception):
            raise fault from context.original_exception
