"""A purchase is one trace, from the request to what the last consumer did, at a collector of spans."""

import json
from collections.abc import Iterator

import pytest

from deploy.local.ephemeral import RunningStack
from tests.e2e.rest_client import Customer, pay, until
from tests.support.collector import Collector, ReceivedSpan, collecting

OURS = ("wallet", "payments", "orders", "gateway")
PAID = ("checkout.session.completed", "payment_intent.succeeded")


@pytest.fixture(scope="module")
def collector(stack: RunningStack) -> Iterator[Collector]:
    """Our processes tell it of their work, and are as they were afterwards."""
    with collecting() as running:
        # The second is of the SDK: it sends what it has every 5 s otherwise.
        told = {"OTEL_EXPORTER_OTLP_ENDPOINT": running.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        try:
            for part in OURS:
                stack.restart(part, told)
            yield running
        finally:
            for part in OURS:
                stack.restart(part, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""})


def way_to(spans: dict[str, ReceivedSpan], service: str, name: str) -> list[str]:
    """From the first span of a trace to the one that is named, which lost nothing on its way."""
    span = next(span for span in spans.values() if (span.service, span.name) == (service, name))
    way = [f"{span.service}: {span.name}"]
    while span.parent:
        span = spans[span.parent]
        way.append(f"{span.service}: {span.name}")
    return way[::-1]


async def test_a_purchase_is_one_trace_through_every_process(
    collector: Collector, customer: Customer
) -> None:
    opened = await customer.http.post("/api/checkout/points", json={"packageId": "basic"})
    await pay(await customer.page_of(opened.json()["checkoutId"]))
    await until(customer.profile, lambda profile: profile["points"] > 0)
    product = (await customer.read("/api/products"))["items"][0]
    bought = await customer.buy("points", items=[{"productId": product["id"], "quantity": 1}])
    assert bought.status_code == 201, bought.text
    topped_up, ordered = (answer.headers["X-Trace-Id"] for answer in (opened, bought))

    async def received() -> dict[str, set[str]]:
        return {
            "checkout": {span.name for span in collector.of(topped_up).values()},
            "order": {span.name for span in collector.of(ordered).values()},
            "links": {link for span in collector.spans for link in span.links},
        }

    def is_all(told: dict[str, set[str]]) -> bool:
        return (
            {"POST /api/checkout/points", "process payments.points.grant_changed"} <= told["checkout"]
            and {"POST /api/checkout", "ReservePoints", "publish orders.order.completed"} <= told["order"]
            and ordered in told["links"]
        )

    await until(received, is_all)
    way = way_to(collector.of(topped_up), "wallet", "process payments.points.grant_changed")
    # Two events tell of a payment; whichever is first makes it count.
    first_told = way.pop(3)
    assert first_told in {f"payments: settle {kind}" for kind in PAID}
    assert way == [
        "gateway: POST /api/checkout/points",
        "gateway: CreatePointsCheckout",
        "payments: CreatePointsCheckout",
        "payments: publish payments.points.grant_changed",
        "wallet: process payments.points.grant_changed",
    ]
    assert way_to(collector.of(ordered), "wallet", "ReservePoints") == [
        "gateway: POST /api/checkout",
        "gateway: PlaceOrder",
        "orders: PlaceOrder",
        "orders: reserve_points",
        "orders: ReservePoints",
        "wallet: ReservePoints",
    ]


async def test_a_refusal_is_no_failure_and_a_trace_tells_no_paths(
    collector: Collector, customer: Customer
) -> None:
    refused = await customer.http.get("/api/orders/00000000-0000-7000-8000-000000000000")
    assert refused.status_code == 404
    trace_id = refused.headers["X-Trace-Id"]

    async def received() -> dict[str, ReceivedSpan]:
        return {f"{span.service}: {span.name}": span for span in collector.of(trace_id).values()}

    spans = await until(received, lambda spans: len(spans) == 3)
    assert {span.name for span in spans.values()} == {"GET /api/orders/{orderId}", "GetOrder"}
    assert not any(span.is_failed for span in spans.values()), "a no is an answer"
    assert spans["orders: GetOrder"].attributes["aishop.refused"] == "ORDER_NOT_FOUND"


async def test_spans_say_what_they_are_by_the_conventions_and_probes_leave_none(
    collector: Collector, stack: RunningStack, customer: Customer
) -> None:
    for path in ("/healthz", "/readyz"):
        assert (await customer.http.get(path)).status_code == 200
    claimed = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{claimed}-00f067aa0ba902b7-01", "Stripe-Signature": "t=1,v1=00"}
    for url in (f"{stack.file.gateway_url}/api/webhooks/stripe", stack.file.webhook_url):
        refused = await customer.http.post(url, content=b"{}", headers=headers)
        assert refused.status_code == 400
    opened = await customer.http.post("/api/checkout/points", json={"packageId": "basic"})
    await pay(await customer.page_of(opened.json()["checkoutId"]))
    await until(customer.profile, lambda profile: profile["points"] > 0)
    trace_id = opened.headers["X-Trace-Id"]

    async def received() -> dict[str, ReceivedSpan]:
        inbound = [span for span in list(collector.spans) if claimed in span.links]
        spans = [*collector.of(trace_id).values(), *inbound]
        return {f"{span.service}: {span.name}": span for span in spans}

    name = "process payments.points.grant_changed"
    spans = await until(received, lambda told: f"wallet: {name}" in told and len(told) > 7)
    told = spans["gateway: POST /api/checkout/points"].attributes
    assert (told["http.request.method"], told["http.route"]) == ("POST", "/api/checkout/points")
    assert told["http.response.status_code"] == "201"
    for service in ("gateway", "payments"):
        webhook = spans[f"{service}: POST /api/webhooks/stripe"]
        assert webhook.attributes["http.response.status_code"] == "400"
        # A stranger's trace is linked, and not gone on with.
        assert (webhook.trace != claimed, webhook.parent) == (True, "")
        told = spans[f"{service}: CreatePointsCheckout"].attributes
        assert told["rpc.system.name"] == "grpc"
        assert told["rpc.method"] == "aishop.payments.v1.PaymentsService/CreatePointsCheckout"
        assert told["rpc.response.status_code"] == "OK"
    subject = name.removeprefix("process ")
    for place, operation in ((f"payments: publish {subject}", "send"), (f"wallet: {name}", "process")):
        told = spans[place].attributes
        assert (told["messaging.system"], told["messaging.destination.name"]) == ("nats", subject)
        assert told["messaging.operation.type"] == operation
        assert told["messaging.message.id"]
    assert spans[f"wallet: {name}"].attributes["messaging.consumer.group.name"]
    everything = list(collector.spans)
    assert {span.name for span in everything if not span.attributes} == set()
    assert not {"GET /healthz", "GET /readyz", "HealthCheck", "Check"} & {span.name for span in everything}


async def test_a_trace_id_leads_to_a_line_of_what_changed_something_or_went_wrong(
    stack: RunningStack, customer: Customer
) -> None:
    opened = await customer.http.post("/api/checkout/points", json={"packageId": "basic"})
    missing = await customer.http.get("/api/orders/00000000-0000-7000-8000-000000000000")
    looked = await customer.http.get("/api/profile")
    lines = [json.loads(line) for line in stack.log("gateway", 50).splitlines() if line.startswith("{")]
    told = {line.get("trace_id"): (line.get("route"), line.get("status")) for line in lines}
    assert told[opened.headers["X-Trace-Id"]] == ("/api/checkout/points", 201)
    assert told[missing.headers["X-Trace-Id"]] == ("/api/orders/{orderId}", 404)
    assert looked.headers["X-Trace-Id"] not in told
