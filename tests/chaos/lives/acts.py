"""One thing that happens in a life; it prints as it is read in a report of a failure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Act:
    """`on` names a sale (`s1`) or a payment of it (`s1/1`), `name` what this act begins or moves."""

    kind: str
    on: str = ""
    name: str = ""
    what: str = ""
    amount: int = 0
    points: int = 0
    # Price and quantity of each line; how many pieces of each are given back.
    lines: tuple[tuple[int, int], ...] = ()
    quantities: tuple[int, ...] = ()

    def __str__(self) -> str:
        said = [self.kind, self.on, self.name, self.what]
        said += [str(value) for value in (self.amount, self.points, self.lines, self.quantities) if value]
        return " ".join(word for word in said if word)
