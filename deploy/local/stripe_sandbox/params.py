"""Reading a call's parameters with Stripe's complaints; what nobody has read is unknown."""

import re
from collections.abc import Collection, Iterator
from typing import Any

from deploy.local.stripe_sandbox.errors import Refusal, invalid
from deploy.local.stripe_sandbox.forms import Tree

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.?[^@\s]*")
_MAX_METADATA_KEYS, _MAX_METADATA_KEY, _MAX_METADATA_VALUE = 50, 40, 500


class Params:
    """One level of the form; `path` is the name of that level as the caller wrote it."""

    def __init__(self, tree: Tree, path: str = "") -> None:
        self._tree = tree
        self._path = path
        self._read: set[str] = set()
        self._inner: list[Params] = []

    def name(self, key: str) -> str:
        return f"{self._path}[{key}]" if self._path else key

    def __contains__(self, key: str) -> bool:
        return key in self._tree

    def is_text(self, key: str) -> bool:
        return isinstance(self._tree.get(key), str)

    def is_empty(self, key: str) -> bool:
        """Sent to take a value away."""
        is_sent_empty = self._tree.get(key) == ""
        if is_sent_empty:
            self._read.add(key)
        return is_sent_empty

    def missing(self, key: str) -> Refusal:
        name = self.name(key)
        return invalid(f"Missing required param: {name}.", param=name, code="parameter_missing")

    def text(self, key: str, *, longest: int = 5_000) -> str | None:
        value = self._value(key)
        if value is None:
            return None
        name = self.name(key)
        if not isinstance(value, str):
            raise invalid(f"Invalid string: {name}", param=name)
        if not value:
            message = f"You passed an empty string for '{name}'."
            raise invalid(message, param=name, code="parameter_invalid_empty")
        if len(value) > longest:
            message = f"Invalid string: {name} must be at most {longest} characters"
            raise invalid(message, param=name)
        return value

    def integer(self, key: str, *, least: int, most: int) -> int | None:
        text = self.text(key)
        if text is None:
            return None
        name = self.name(key)
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise invalid(f"Invalid integer: {text}", param=name, code="parameter_invalid_integer")
        number = int(text)
        if not least <= number <= most:
            message = f"Invalid integer: {name} must be between {least} and {most}"
            raise invalid(message, param=name, code="parameter_invalid_integer")
        return number

    def boolean(self, key: str) -> bool | None:
        text = self.choice(key, ("true", "false"))
        return None if text is None else text == "true"

    def choice(self, key: str, among: Collection[str]) -> str | None:
        text = self.text(key)
        if text is not None and text not in among:
            name = self.name(key)
            raise invalid(f"Invalid {name}: must be one of {', '.join(sorted(among))}", param=name)
        return text

    def url(self, key: str) -> str | None:
        text = self.text(key)
        if text is not None and not re.match(r"https?://[^/\s]", text):
            raise invalid("Not a valid URL", param=self.name(key), code="url_invalid")
        return text

    def email(self, key: str) -> str | None:
        text = self.text(key, longest=512)
        if text is not None and not _EMAIL.fullmatch(text):
            raise invalid(f"Invalid email address: {text}", param=self.name(key), code="email_invalid")
        return text

    def metadata(self, key: str = "metadata") -> dict[str, str]:
        """At most 50 keys of 40 characters, values of 500; an empty value is no key."""
        level = self.mapping(key)
        if level is None:
            return {}
        values = {name: level._metadata_value(name) for name in level._tree}
        if len(values) > _MAX_METADATA_KEYS:
            message = f"Metadata can hold at most {_MAX_METADATA_KEYS} keys."
            raise invalid(message, param=self.name(key))
        return {name: value for name, value in values.items() if value}

    def changed_metadata(self, present: dict[str, str], key: str = "metadata") -> dict[str, str]:
        """The present metadata with what is sent: an empty value takes its key away, an empty string all."""
        if self._tree.get(key) == "":
            self._read.add(key)
            return {}
        sent = self.metadata(key)
        named = self._tree.get(key, {}).keys()
        return {name: value for name, value in present.items() if name not in named} | sent

    def _metadata_value(self, key: str) -> str:
        value, name = self._value(key), self.name(key)
        if not isinstance(value, str):
            raise invalid(f"Invalid string: {name}", param=name)
        if len(key) > _MAX_METADATA_KEY:
            message = f"Metadata keys can have up to {_MAX_METADATA_KEY} characters"
            raise invalid(message, param=name)
        if len(value) > _MAX_METADATA_VALUE:
            message = f"Metadata values can have up to {_MAX_METADATA_VALUE} characters"
            raise invalid(message, param=name)
        return value

    def mapping(self, key: str) -> "Params | None":
        value = self._value(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise invalid("Invalid object", param=self.name(key))
        return self._level(value, self.name(key))

    def items(self, key: str, *, most: int) -> list["Params"]:
        """The hashes of a list, in the order of their numbers."""
        name = self.name(key)
        entries = self._entries(key, most)
        if not all(isinstance(entry, dict) for _, entry in entries):
            raise invalid("Invalid array", param=name)
        return [self._level(entry, f"{name}[{number}]") for number, entry in entries]

    def texts(self, key: str, *, most: int) -> list[str]:
        entries = self._entries(key, most)
        if not all(isinstance(entry, str) and entry for _, entry in entries):
            raise invalid("Invalid array", param=self.name(key))
        return [entry for _, entry in entries]

    def finish(self) -> None:
        """Raises parameter_unknown for what no one has read."""
        unknown = next(self._unread(), None)
        if unknown is not None:
            message = f"Received unknown parameter: {unknown}"
            raise invalid(message, param=unknown, code="parameter_unknown")

    def _unread(self) -> Iterator[str]:
        yield from (self.name(key) for key in self._tree if key not in self._read)
        for level in self._inner:
            yield from level._unread()

    def _value(self, key: str) -> Any:
        self._read.add(key)
        return self._tree.get(key)

    def _level(self, tree: Tree, path: str) -> "Params":
        level = Params(tree, path)
        self._inner.append(level)
        return level

    def _entries(self, key: str, most: int) -> list[tuple[int, Any]]:
        value, name = self._value(key), self.name(key)
        if value is None:
            return []
        if not isinstance(value, dict) or not all(re.fullmatch("[0-9]{1,4}", index) for index in value):
            raise invalid("Invalid array", param=name)
        if len(value) > most:
            raise invalid(f"Invalid array: at most {most} entries", param=name)
        return sorted((int(index), entry) for index, entry in value.items())
