"""What the resources' JSON has in common."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path, Query
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

UUID_PATTERN = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
INT64_MAX = 2**63 - 1

UuidText = Annotated[str, Field(pattern=UUID_PATTERN, json_schema_extra={"format": "uuid"})]
# Compared with the catalogue only; any whole number that fits the wire will do.
Believed = Annotated[int, Field(strict=True, ge=-INT64_MAX, le=INT64_MAX)]
Quantity = Annotated[int, Field(strict=True, ge=1, le=1000)]
Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]
Cursor = Annotated[str, Query(max_length=512, description="`nextCursor` of the page before.")]
ProductId = Annotated[str, Path(alias="productId", json_schema_extra={"format": "uuid"})]
OrderId = Annotated[str, Path(alias="orderId", json_schema_extra={"format": "uuid"})]
CheckoutId = Annotated[str, Path(alias="checkoutId", json_schema_extra={"format": "uuid"})]


class ApiModel(BaseModel):
    """camelCase outside, snake_case inside; fields that a client adds are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Line(ApiModel):
    """So many pieces of a product."""

    product_id: UuidText
    quantity: Quantity


def as_time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
