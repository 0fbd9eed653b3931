"""An object of the sandbox against what the official client's types declare for it."""

from typing import Any, get_args

from stripe._stripe_object import StripeObject


def missing_fields(value: Any, path: str = "") -> list[str]:
    """The fields that an object's own type declares as never absent and that it lacks, all the way down."""
    if isinstance(value, list):
        return [name for item in value for name in missing_fields(item, f"{path}[]")]
    if not isinstance(value, StripeObject):
        return []
    declared = getattr(type(value), "__annotations__", {})
    required = [
        name
        for name, kind in declared.items()
        if type(None) not in get_args(kind) and not name.startswith("_") and name != "OBJECT_NAME"
    ]
    fields = value.to_dict(recursive=False)
    lacking = [f"{path}.{name}" for name in required if name not in fields]
    return lacking + [
        name for field, inner in fields.items() for name in missing_fields(inner, f"{path}.{field}")
    ]


def fields_amiss(value: StripeObject) -> set[str]:
    """Fields that the type declares and the object lacks, or the other way round; those that may be absent
    (`deleted`, and what Stripe includes only when it is expanded) are the caller's to subtract."""
    return (set(type(value).__annotations__) - {"OBJECT_NAME"}) ^ set(value.to_dict())
