"""An object of the sandbox against what the official client's types declare for it."""

from collections.abc import Callable
from typing import Any, ForwardRef, Literal, TypeVar, Union, get_args, get_origin

from stripe._stripe_object import StripeObject, UntypedStripeObject


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


def wrong_types(value: Any, path: str = "") -> list[str]:
    """The fields whose values are not of the declared type, all the way down; a text of a list of known
    texts must be one of them, though the type admits others for the future."""
    if isinstance(value, list):
        return [name for item in value for name in wrong_types(item, f"{path}[]")]
    if not isinstance(value, StripeObject):
        return []
    declared = getattr(type(value), "__annotations__", {})
    fields = value.to_dict(recursive=False)
    wrong = [
        f"{path}.{name}: {inner!r}"
        for name, inner in fields.items()
        if name in declared and not _is_of(inner, declared[name])
    ]
    return wrong + [name for field, inner in fields.items() for name in wrong_types(inner, f"{path}.{field}")]


def _is_of(value: Any, kind: Any) -> bool:
    if kind is Any or isinstance(kind, TypeVar):
        return True
    if isinstance(kind, str | ForwardRef):
        return type(value).__name__ == getattr(kind, "__forward_arg__", kind)
    origin = get_origin(kind)
    known = _OF_ORIGIN.get(origin)
    if known:
        return known(value, get_args(kind))
    # A name for type checkers: what arrives is a plain StripeObject.
    kind = StripeObject if origin is UntypedStripeObject else origin or kind
    # True is an int for Python, not for Stripe.
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)


def _is_of_union(value: Any, kinds: tuple[Any, ...]) -> bool:
    known = [kind for kind in kinds if get_origin(kind) is Literal]
    if known and isinstance(value, str):
        return any(_is_of(value, kind) for kind in known)
    return any(_is_of(value, kind) for kind in kinds)


def _is_list_of(value: Any, kinds: tuple[Any, ...]) -> bool:
    return isinstance(value, list) and all(_is_of(item, kinds[0]) for item in value)


_OF_ORIGIN: dict[Any, Callable[[Any, tuple[Any, ...]], bool]] = {
    Union: _is_of_union,
    Literal: lambda value, kinds: value in kinds,
    list: _is_list_of,
}
