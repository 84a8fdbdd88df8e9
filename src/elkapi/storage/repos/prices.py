"""Versioned, immutable price records: a change is a new version, and a model's highest version is in force.

A price is withdrawn by a version whose record is null. An older release that runs beside this one fails at it, where it
would take any other for a price of nothing.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, RowMapping, func, select, tuple_

from elkapi.storage import schema
from elkapi.storage.repos import audit, versions
from elkapi.types import Amounts, Price

_prices = schema.prices


class PriceRow(msgspec.Struct, frozen=True):
    """A record with its origin (`seed`, or who set it) and time.

    `withdrawn`: from this version on the model has no price, and `price` means nothing.
    """

    price: Price
    source: str
    created_ns: int
    withdrawn: bool = False


def in_force(connection: Connection) -> list[PriceRow]:
    """The record in force of every model that has one, by name."""
    highest = select(_prices.c.model, func.max(_prices.c.version)).group_by(_prices.c.model)
    query = select(_prices).where(tuple_(_prices.c.model, _prices.c.version).in_(highest)).order_by(_prices.c.model)
    return [row for found in connection.execute(query).mappings() if not (row := _row(found)).withdrawn]


def history(connection: Connection, model: str) -> list[PriceRow]:
    """Every version of one model's price, newest first."""
    query = select(_prices).where(_prices.c.model == model).order_by(_prices.c.version.desc())
    return [_row(row) for row in connection.execute(query).mappings()]


def get_price(connection: Connection, price_id: int) -> PriceRow | None:
    """One version of a price, in force or not."""
    row = connection.execute(select(_prices).where(_prices.c.id == price_id)).mappings().one_or_none()
    return None if row is None else _row(row)


def add_version(
    connection: Connection, *, model: str, amounts: Amounts, source: str, now_ns: int, actor: str
) -> PriceRow:
    """Put a new version in force; calls that already hold money keep the version their hold names."""
    row = _add(connection, model, amounts, source, now_ns)
    detail = {"version": row.price.version, **msgspec.to_builtins(amounts)}
    audit.write(connection, now_ns=now_ns, actor=actor, action="price.set", subject=f"price:{model}", detail=detail)
    return row


def withdraw(connection: Connection, *, model: str, source: str, now_ns: int, actor: str) -> PriceRow | None:
    """Leave the model without a price from a new version on; None, and nothing changes, where it has none in force."""
    versions.take_turns(connection)
    newest = history(connection, model)[:1]
    if not newest or newest[0].withdrawn:
        return None
    row = _add(connection, model, None, source, now_ns)
    detail = {"version": row.price.version}
    audit.write(
        connection, now_ns=now_ns, actor=actor, action="price.withdraw", subject=f"price:{model}", detail=detail
    )
    return row


def _add(connection: Connection, model: str, amounts: Amounts | None, source: str, now_ns: int) -> PriceRow:
    # Locking the counter's row serialises writers, so that two cannot compute the same next version.
    versions.bump(connection, routing=True)
    last = connection.execute(select(func.max(_prices.c.version)).where(_prices.c.model == model)).scalar()
    version = (last or 0) + 1
    record = msgspec.json.encode(amounts).decode()
    values = {"model": model, "version": version, "record": record, "source": source, "created_ns": now_ns}
    price_id = connection.execute(_prices.insert().returning(_prices.c.id), values).scalar_one()
    return _of(price_id, model, version, amounts, source, now_ns)


def _row(row: RowMapping) -> PriceRow:
    amounts = msgspec.json.decode(row["record"], type=Amounts | None)
    return _of(row["id"], row["model"], row["version"], amounts, row["source"], row["created_ns"])


def _of(price_id: int, model: str, version: int, amounts: Amounts | None, source: str, created_ns: int) -> PriceRow:
    rates = msgspec.structs.asdict(amounts or Amounts())
    price = Price(id=price_id, model=model, version=version, **rates)
    return PriceRow(price, source, created_ns, withdrawn=amounts is None)
