"""`aishop replay`: handles Stripe's events once more; effects that exist are not made again."""

import time
from collections.abc import Sequence
from typing import Annotated

import typer

from deploy.local.operator.client import JSON, Gateway, gateway_of, segment
from deploy.local.operator.events import PATH, Status, Type, print_events
from deploy.local.operator.options import AsJson, Data, Reason, Since, Stack
from deploy.local.operator.screen import err, out, print_json

_POLL_SECONDS = 0.1

Ids = Annotated[list[str] | None, typer.Argument(metavar="[EVT_ID]...", show_default=False)]
Wait = Annotated[int, typer.Option("--wait", metavar="SECONDS", help="Wait so long for them.", min=0)]


def replay(
    reason: Reason,
    ids: Ids = None,
    type_: Type = None,
    status: Status = None,
    since: Since = None,
    wait: Wait = 30,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Handle events again: those named, or those of a type, a status, a time; at most 1000 in a call. Exit 1
    when one of them was not."""
    if bool(ids) == any((type_, status, since)):
        raise typer.BadParameter("name events, or choose them by --type, --status and --since")
    choice = {"ids": ids or None, "type": type_, "status": status, "since": since, "reason": reason}
    with gateway_of(data, stack) as gateway:
        replayed = gateway.post(f"{PATH}/replay", choice)["ids"]
        events = _handled(gateway, replayed, deadline=time.monotonic() + wait)
    skipped = [event_id for event_id in ids or () if event_id not in replayed]
    if as_json:
        print_json({"events": events, "skipped": skipped})
    else:
        _print(events)
    waiting = sum(event["status"] in ("received", "failed") for event in events)
    _complain(skipped, waiting)
    if skipped or waiting:
        raise typer.Exit(1)


def _handled(gateway: Gateway, ids: Sequence[str], *, deadline: float) -> list[JSON]:
    """Each event once it is handled, or as it is at the deadline."""
    events = []
    with out.status(f"{len(ids)} events are handled again"):
        for event_id in ids:
            path = f"{PATH}/{segment(event_id)}"
            event = gateway.get(path)
            while event["status"] == "received" and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                event = gateway.get(path)
            events.append(event)
    return events


def _print(events: list[JSON]) -> None:
    out.print(f"events replayed: {len(events)}")
    if events:
        print_events(events)


def _complain(skipped: Sequence[str], waiting: int) -> None:
    if skipped:
        err.print(f"not replayed, since unknown or just being handled: {', '.join(skipped)}")
    if waiting:
        err.print(f"still waiting: {waiting}; they are tried again by themselves, see `aishop events show`")
