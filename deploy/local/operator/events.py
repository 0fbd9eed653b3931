"""`aishop events`: Stripe's events as they came, what each has caused, and which will not be applied."""

from typing import Annotated, Literal

import typer

from deploy.local.operator.actions import decide, show_newest
from deploy.local.operator.client import JSON, gateway_of, segment
from deploy.local.operator.options import AsJson, Data, Limit, Reason, Since, Stack
from deploy.local.operator.screen import out, print_json, print_table, time_cell

PATH = "/api/admin/stripe/events"
Type = Annotated[str | None, typer.Option("--type", help="A type; charge.* for all that begin so.")]
Status = Annotated[
    Literal["received", "processed", "ignored", "failed", "set_aside"] | None,
    typer.Option("--status", help="received: it waits for its (next) turn. failed: for an operator, too."),
]
Search = Annotated[
    str | None, typer.Option("--search", help="An event's, object's or payment intent's whole id.")
]

app = typer.Typer(
    no_args_is_help=True, help="Stripe's events: list them, show one with what it caused, set one aside."
)


@app.command("list")
def list_events(
    type_: Type = None,
    status: Status = None,
    search: Search = None,
    since: Since = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """List events, the newest first."""
    show_newest(
        PATH,
        print_events,
        limit=limit,
        type=type_,
        status=status,
        search=search,
        since=since,
        as_json=as_json,
        data=data,
        stack=stack,
    )


@app.command()
def show(
    event_id: Annotated[str, typer.Argument(metavar="EVT_ID")],
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Show one event: its state, what it caused, and what Stripe sent."""
    with gateway_of(data, stack) as gateway:
        event = gateway.get(f"{PATH}/{segment(event_id)}")
    if as_json:
        print_json(event)
        return
    print_events([event])
    if event["effects"]:
        caused = ((effect["kind"], effect["id"], effect["change"]) for effect in event["effects"])
        print_table(("caused", "id", "change"), caused)
    else:
        out.print("it caused nothing")
    print_json(event["payload"])


@app.command("set-aside")
def set_aside(
    event_id: Annotated[str, typer.Argument(metavar="EVT_ID")],
    reason: Reason,
    as_json: AsJson = False,
    data: Data = None,
    stack: Stack = None,
) -> None:
    """Decide that an event will not be applied, or acknowledge that a rule set it aside; `aishop replay`
    takes it up again."""
    path = f"{PATH}/{segment(event_id)}/set-aside"
    decide(path, reason, print_events, as_json=as_json, data=data, stack=stack)


def print_events(found: list[JSON]) -> None:
    print_table(
        ("event", "type", "status", "attempts", "received", "about", "error"),
        (
            (
                event["id"],
                event["type"],
                event["status"],
                event["attempts"],
                time_cell(event["receivedAt"]),
                event["objectId"],
                _remark(event),
            )
            for event in found
        ),
    )


def _remark(event: JSON) -> str:
    """The error, after what was decided about it."""
    if not event["setAsideAt"]:
        return event["error"] or ""
    unseen = "" if event["acknowledgedAt"] else ", not acknowledged"
    return f"set aside by {event['setAsideBy']}{unseen}: {event['setAsideReason']}; {event['error'] or ''}"
