"""What the resources' JSON has in common."""

import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path, Query
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)
from pydantic.alias_generators import to_camel

UUID_PATTERN = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
# Stripe's own; 255 characters at most.
EVENT_ID_PATTERN = "^evt_[0-9A-Za-z_]{1,251}$"
# What is sealed in base64url.
LINK_PATTERN = "^[0-9A-Za-z_-]{1,512}$"
INT64_MAX = 2**63 - 1
MAX_BODY_BYTES = 64 * 1024

UuidText = Annotated[str, Field(pattern=UUID_PATTERN, json_schema_extra={"format": "uuid"})]
# Compared with the catalogue only; any whole number that fits the wire will do.
Believed = Annotated[int, Field(strict=True, ge=-INT64_MAX, le=INT64_MAX)]
Quantity = Annotated[int, Field(strict=True, ge=1, le=1000)]
Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]
Cursor = Annotated[str, Query(max_length=512, description="`nextCursor` of the page before.")]
# What goes out as an amount comes in as one: no float, no text.
Amount = Annotated[int, Field(strict=True, ge=0, le=INT64_MAX)]
ProductId = Annotated[str, Path(alias="productId", json_schema_extra={"format": "uuid"})]
OrderId = Annotated[str, Path(alias="orderId", json_schema_extra={"format": "uuid"})]
SubscriptionId = Annotated[str, Path(alias="subscriptionId", json_schema_extra={"format": "uuid"})]
# As mails print it.
OrderNumber = Annotated[
    str,
    Query(
        pattern="^[0-9a-fA-F]{12}$",
        description="An order's number as mails print it: the last 12 digits of its id.",
    ),
]
# A saga's name without its version.
SAGA_PATTERN = "^[a-z][a-z_]{0,98}[a-z]$"
SagaName = Annotated[str, Path(alias="saga", description="Its name without the version.")]
# A refund's mails bear the refund's id.
MAIL_PATTERN = f"^(?:receipt|downloads|shipped|(?:refund|returned):{UUID_PATTERN[1:-1]})$"
MailKind = Annotated[
    str,
    Path(
        alias="mail", description="Its kind: `receipt`, `downloads`, `shipped`, `refund:ID`, `returned:ID`."
    ),
]
EventId = Annotated[str, Path(alias="eventId")]
QuarantineId = Annotated[str, Path(alias="quarantineId", json_schema_extra={"format": "uuid"})]
ReconciliationId = Annotated[str, Path(alias="reconciliationId", json_schema_extra={"format": "uuid"})]
# Why an operator does something; kept in the audit log.
Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
CheckoutId = Annotated[str, Path(alias="checkoutId", json_schema_extra={"format": "uuid"})]


def _is_written_out(moment: object) -> object:
    """pydantic takes a number, or a text that is one, for seconds since 1970: a 0 would mean everything."""
    if not isinstance(moment, datetime) and not (isinstance(moment, str) and _ISO_DATE.match(moment)):
        raise ValueError("must be a time with its offset, e.g. 2026-07-04T12:30:00Z")
    return moment


def _since_there_is_a_shop(moment: datetime) -> datetime:
    """No shop has rows of an earlier time: whoever asks for them means something else. (A protobuf Timestamp
    holds the years 1 to 9999 in UTC, and an offset must not lead out of them.)"""
    if not 2020 <= moment.year < 9999:
        raise ValueError("must be a time from 2020 on")
    return moment


_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}[T ]")
# A time with its offset, e.g. 2026-07-04T12:30:00Z.
Moment = Annotated[AwareDatetime, BeforeValidator(_is_written_out), AfterValidator(_since_there_is_a_shop)]


class ApiModel(BaseModel):
    """camelCase outside, snake_case inside; fields that a client adds are ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        # No more than a body holds. Only text with a limit is looked at: half a surrogate pair, which JSON
        # allows, would fail when it is sent on.
        str_max_length=MAX_BODY_BYTES,
    )


class StrictBody(ApiModel):
    """A body whose misspelt field would mean something else, everything mostly: unknown ones are refused."""

    model_config = ConfigDict(extra="forbid")


class Line(ApiModel):
    """So many pieces of a product."""

    product_id: UuidText
    quantity: Quantity


def as_time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def as_stamp(moment: datetime | None) -> Timestamp | None:
    """None stays None: an absent field."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
