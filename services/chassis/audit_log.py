"""What operators did: append-only, chained, off the customer's path.

One chain per database. `seq` is given out under an advisory lock that lasts until the caller's transaction
ends, so that an entry stands and falls with the action. A changed, missing or swapped row breaks the chain
(`broken_at`); a cut tail is seen by whoever noted the last hash elsewhere (`aishop audit` prints it).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Protocol

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    CheckConstraint,
    Column,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    cast,
    column,
    func,
    insert,
    select,
    table,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from protos.audit.v1 import audit_pb2
from services.chassis.fields import as_text, in_range

# prev_hash of a database's first entry.
GENESIS = bytes(32)
# Any number: it names the chain's lock inside one database.
_CHAIN_LOCK = 4_713
# A page of the gateway's, and one more to see whether there is another.
_MAX_ENTRIES = 101
_LONGEST_SHOWN = 1000
_LONGEST_FILTER = 255
_LAST_SEQ = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Entry:
    """One row; the fields are its columns but for the id."""

    seq: int
    # The operator's user id, or `cli:<user name>`.
    actor: str
    # What was done, e.g. points.adjusted.
    action: str
    # The id of what it was done to.
    subject: str
    reason: str
    details: Mapping[str, object]
    created_at: datetime
    prev_hash: bytes
    hash: bytes


def audit_log_table(metadata: MetaData) -> None:
    """Adds audit_log."""
    Table(
        "audit_log",
        metadata,
        Column("id", Uuid, primary_key=True, server_default=text("uuidv7()")),
        Column("seq", BigInteger, nullable=False),
        Column("actor", Text, nullable=False),
        Column("action", Text, nullable=False),
        Column("subject", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("details", JSONB, nullable=False),
        Column("created_at", TIMESTAMP(timezone=True), nullable=False),
        Column("prev_hash", LargeBinary, nullable=False),
        Column("hash", LargeBinary, nullable=False),
        UniqueConstraint("seq", name="audit_log_seq_key"),
        CheckConstraint("seq > 0", name="seq_positive"),
        CheckConstraint("length(actor) > 0 AND length(reason) > 0", name="actor_and_reason_given"),
        CheckConstraint("octet_length(prev_hash) = 32 AND octet_length(hash) = 32", name="hashes_are_sha256"),
    )


# Each service's metadata has the whole table; here only its columns are named.
_audit_log = table("audit_log", *(column(name) for name in Entry.__dataclass_fields__))


async def append(
    connection: AsyncConnection,
    *,
    actor: str,
    action: str,
    subject: str,
    reason: str,
    details: Mapping[str, object] | None = None,
) -> None:
    """Adds an entry in the caller's transaction; the next one waits for its end."""
    await connection.execute(select(func.pg_advisory_xact_lock(_CHAIN_LOCK)))
    last = (
        await connection.execute(
            select(_audit_log.c.seq, _audit_log.c.hash).order_by(_audit_log.c.seq.desc()).limit(1)
        )
    ).one_or_none()
    now = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    unhashed = Entry(
        seq=last.seq + 1 if last else 1,
        actor=actor,
        action=action,
        subject=subject,
        reason=reason,
        details=details or {},
        created_at=now,
        prev_hash=last.hash if last else GENESIS,
        hash=b"",
    )
    values = asdict(replace(unhashed, hash=entry_hash(unhashed)))
    values["details"] = cast(values["details"], JSONB)
    await connection.execute(insert(_audit_log).values(values))


def entry_hash(entry: Entry) -> bytes:
    """SHA-256 over version 1 of the encoding; `entry.hash` itself is not read.

    These bytes, one after the other, each with its length before it as a big-endian unsigned 32-bit number,
    text in UTF-8: the text "aishop.audit_log/v1"; seq (decimal text); actor; action; subject; reason; details
    as JSON with sorted keys, without blanks, non-ASCII characters escaped; created_at (microseconds since
    1970-01-01T00:00:00Z, decimal text); prev_hash (32 raw bytes).
    """
    parts = (
        "aishop.audit_log/v1",
        str(entry.seq),
        entry.actor,
        entry.action,
        entry.subject,
        entry.reason,
        json.dumps(entry.details, sort_keys=True, separators=(",", ":")),
        str((entry.created_at - _EPOCH) // _MICROSECOND),
    )
    encoded = [*(part.encode() for part in parts), entry.prev_hash]
    return sha256(b"".join(len(raw).to_bytes(4, "big") + raw for raw in encoded)).digest()


def broken_at(entries: Iterable[Entry]) -> int | None:
    """The seq where a database's chain, by seq, first fails its check; None when all of it holds."""
    seq, head = 0, GENESIS
    for entry in entries:
        if (entry.seq, entry.prev_hash) != (seq + 1, head) or entry_hash(entry) != entry.hash:
            return seq + 1
        seq, head = entry.seq, entry.hash
    return None


class Request(Protocol):
    """ListAuditLogRequest of any service."""

    before_seq: int
    limit: int
    actor: str
    subject: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries: those before `before_seq` (0: all), of an actor, about a subject (empty: any)."""

    before_seq: int
    limit: int
    actor: str
    subject: str


def wanted(request: Request) -> Wanted:
    """Raises Invalid for what cannot be asked."""
    return Wanted(
        before_seq=in_range(request.before_seq, field="before_seq", low=0, high=_LAST_SEQ),
        limit=in_range(request.limit, field="limit", low=1, high=_MAX_ENTRIES),
        actor=as_text(request.actor, field="actor", longest=_LONGEST_FILTER, shortest=0),
        subject=as_text(request.subject, field="subject", longest=_LONGEST_FILTER, shortest=0),
    )


async def read(connection: AsyncConnection, of: Wanted) -> Sequence[Entry]:
    """The newest first, by seq: no two entries share one, and none comes between two that are there."""
    query = select(*_audit_log.c).order_by(_audit_log.c.seq.desc()).limit(of.limit)
    if of.before_seq:
        query = query.where(_audit_log.c.seq < of.before_seq)
    if of.actor:
        query = query.where(_audit_log.c.actor == of.actor)
    if of.subject:
        query = query.where(_audit_log.c.subject == of.subject)
    return [Entry(**row._mapping) for row in await connection.execute(query)]


def as_message(service: str, entry: Entry) -> audit_pb2.AuditEntry:
    created_at = Timestamp()
    created_at.FromDatetime(entry.created_at)
    return audit_pb2.AuditEntry(
        service=service,
        seq=entry.seq,
        actor=entry.actor,
        action=entry.action,
        subject=entry.subject,
        reason=entry.reason,
        details=json.dumps(_shown(entry.details)),
        created_at=created_at,
    )


def _shown(value: Any) -> Any:
    """Details with their long texts cut (a product's description, say): a hundred entries have to fit into
    one message. The log itself has them whole."""
    if isinstance(value, str) and len(value) > _LONGEST_SHOWN:
        return f"{value[:_LONGEST_SHOWN]}… ({len(value)} characters)"
    if isinstance(value, dict):
        return {name: _shown(each) for name, each in value.items()}
    return [_shown(each) for each in value] if isinstance(value, list) else value
