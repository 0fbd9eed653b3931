"""Grafana's dashboards: `python -m deploy.dashboards` writes them to deploy/observability/grafana/.

What a process does is summed over replicas; what it read in the database is the same from each: max()
(services/chassis/metrics.py). $__rate_interval is Grafana's own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "observability/grafana/dashboards"
_COLUMNS = 24
_HEIGHT = 8
_DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
_RATE = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """One panel: {legend: PromQL}. `unit` is Grafana's name of it."""

    title: str
    queries: Mapping[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    description: str = ""


@dataclass(frozen=True)
class Dashboard:
    """Rows of panels, under their titles."""

    uid: str
    title: str
    rows: Mapping[str, Sequence[Panel]]
    hours: int


def _quantiles(name: str) -> dict[str, str]:
    """Median, and what 90 and 99 in a hundred stay below, of a histogram that processes keep."""
    rates = f"sum by (le) (rate({name}_bucket{_RATE}))"
    return {f"p{share}": f"histogram_quantile({share / 100}, {rates})" for share in (50, 90, 99)}


def _came_in(name: str, *, by: str = "", where: str = "", within: str = "1h") -> str:
    """Rows that came lately, however many replicas counted them."""
    group = f"max by ({by})" if by else "max"
    return f"{group} (increase({name}{where}[{within}]))"


def _spread(name: str) -> dict[str, str]:
    """Median and p90 of what came in within six hours."""
    buckets = _came_in(f"{name}_bucket", by="le", within="6h")
    return {f"p{share}": f"histogram_quantile({share / 100}, {buckets})" for share in (50, 90)}


_PLACED, _DECIDED = "aishop_orders_placed_total", "aishop_orders_decided_total"
_BEGUN, _PAID = "aishop_payments_checkouts_total", "aishop_payments_paid_cents"
_COMPLETED = '{status="completed"}'
_FOR_POINTS = '{purpose="points"}'
_COMPLETED_NOW = _came_in(_DECIDED, by="payment_method, reason", where=_COMPLETED)
_PLACED_TODAY = f"sum({_came_in(_PLACED, by='payment_method', within='1d')})"
_COMPLETED_TODAY = _came_in(_DECIDED, by="payment_method, reason", where=_COMPLETED, within="1d")

BUSINESS = Dashboard(
    uid="aishop-business",
    title="AI Shop: business",
    hours=24,
    rows={
        "Sales": (
            Panel(
                "From cart to paid, per hour",
                {
                    "carts begun": "sum(increase(aishop_orders_carts_total[1h]))",
                    "orders placed": f"sum({_came_in(_PLACED, by='payment_method')})",
                    "orders paid": f"sum({_COMPLETED_NOW})",
                },
                width=12,
                description="Orders may name their items and need no cart.",
            ),
            Panel(
                "Conversion of a day",
                {
                    "orders for each cart": f"{_PLACED_TODAY} / sum(increase(aishop_orders_carts_total[1d]))",
                    "orders that were paid": f"sum({_COMPLETED_TODAY}) / {_PLACED_TODAY}",
                    "points checkouts that were paid": (
                        _came_in(f"{_PAID}_count", where=_FOR_POINTS, within="1d")
                        + " / "
                        + _came_in(_BEGUN, where=_FOR_POINTS, within="1d")
                    ),
                },
                unit="percentunit",
                kind="stat",
                width=6,
            ),
            Panel(
                "Payment methods of a day",
                {"{{payment_method}}": f"sum by (payment_method) ({_COMPLETED_TODAY})"},
                kind="piechart",
                width=6,
            ),
            Panel(
                "Failed and cancelled, by reason",
                {
                    "{{reason}} ({{payment_method}})": _came_in(
                        _DECIDED, by="payment_method, reason", where='{status=~"failed|cancelled"}'
                    )
                },
                width=12,
            ),
            Panel(
                "Refunded orders",
                {
                    "{{payment_method}}, {{reason}}": _came_in(
                        _DECIDED,
                        by="payment_method, reason",
                        where='{status="refunded"}',
                    )
                },
                width=12,
            ),
        ),
        "Money": (
            Panel(
                "Taken per hour, in cents",
                {"{{purpose}}": _came_in(f"{_PAID}_sum", by="purpose")},
            ),
            Panel(
                "Payments per hour",
                {"{{purpose}}": _came_in(f"{_PAID}_count", by="purpose")},
            ),
            Panel(
                "Cents of a card order",
                _spread("aishop_orders_completed_cents"),
            ),
        ),
        "Points": (
            Panel(
                "Moved per hour",
                {
                    "{{type}} {{direction}}": _came_in(
                        "aishop_wallet_transaction_points_sum", by="type, direction"
                    ),
                    "sold": _came_in("aishop_payments_points_sold_total"),
                },
            ),
            Panel(
                "What customers have",
                {
                    "outstanding": "max(aishop_wallet_points_outstanding)",
                    "held for orders": "max(aishop_wallet_points_held)",
                    "debt": "max(aishop_wallet_points_debt)",
                },
                description="Outstanding points are what the shop owes.",
            ),
            Panel(
                "Points of an order",
                _spread("aishop_orders_completed_points"),
            ),
        ),
        "Stock": (
            Panel("Products, by what is left", {"{{stock}}": "max by (stock) (aishop_orders_products)"}),
        ),
    },
)

OPERATIONS = Dashboard(
    uid="aishop-operations",
    title="AI Shop: operations",
    hours=3,
    rows={
        "Requests": (
            Panel(
                "Requests",
                {"{{status}}": f"sum by (status) (rate(aishop_http_request_duration_seconds_count{_RATE}))"},
                unit="reqps",
            ),
            Panel("Latency", _quantiles("aishop_http_request_duration_seconds"), unit="s"),
            Panel(
                "Slowest routes (p90)",
                {
                    "{{method}} {{route}}": "topk(10, histogram_quantile(0.9, sum by (method, route, le)"
                    f" (rate(aishop_http_request_duration_seconds_bucket{_RATE}))))"
                },
                unit="s",
            ),
            Panel(
                "Places in use",
                {
                    "{{lane}}": "sum by (lane) (aishop_http_requests_running)",
                    "{{lane}}, refused": f"sum by (lane) (rate(aishop_http_requests_refused_total{_RATE}))",
                    "{{lane}}, too late": f"sum by (lane) (rate(aishop_http_request_timeouts_total{_RATE}))",
                },
            ),
            Panel(
                "Connections that were ended, lines of logs that were lost",
                {
                    "{{job}} {{why}}": "sum by (job, why)"
                    f" (rate(aishop_http_connections_refused_total{_RATE}))",
                    "{{job}} lines": f"sum by (job) (rate(aishop_log_lines_lost_total{_RATE}))",
                },
            ),
            Panel(
                "Calls between services",
                {"{{job}} {{code}}": f"sum by (job, code) (rate(aishop_rpc_duration_seconds_count{_RATE}))"},
                unit="reqps",
            ),
            Panel(
                "Slowest methods (p90)",
                {
                    "{{method}}": "topk(10, histogram_quantile(0.9, sum by (method, le)"
                    f" (rate(aishop_rpc_duration_seconds_bucket{_RATE}))))"
                },
                unit="s",
            ),
        ),
        "Webhooks": (
            Panel(
                "Deliveries",
                {"{{outcome}}": f"sum by (outcome) (rate(aishop_payments_webhooks_total{_RATE}))"},
                unit="reqps",
            ),
            Panel(
                "From Stripe to here, from here to its effect",
                {
                    f"{legend}, {way}": query
                    for way, name in {
                        "delivery": "aishop_payments_webhook_delivery_seconds",
                        "processing": "aishop_payments_webhook_processing_lag_seconds",
                    }.items()
                    for legend, query in _quantiles(name).items()
                },
                unit="s",
            ),
            Panel("Handling one takes", _quantiles("aishop_payments_webhook_processing_seconds"), unit="s"),
            Panel(
                "Waiting",
                {
                    "events": "max(aishop_payments_stripe_events_waiting)",
                    "checkouts without a session": "max(aishop_payments_checkouts_creating)",
                    "refunds without an answer": "max(aishop_payments_refunds_creating)",
                    "tries of the worst": "max(aishop_payments_stripe_event_attempts)",
                    "failed events": "sum(max by (type) (aishop_payments_stripe_events_failed))",
                    "set aside by rule": "max(aishop_payments_stripe_events_set_aside_unseen)",
                    "failed tries an hour": "sum(increase(aishop_payments_stripe_event_failures_total[1h]))",
                },
            ),
            Panel(
                "Oldest waiting",
                {
                    "event": "max(aishop_payments_stripe_event_oldest_seconds)",
                    "checkout without its session": "max(aishop_payments_checkout_creating_oldest_seconds)",
                    "refund without an answer": "max(aishop_payments_refund_creating_oldest_seconds)",
                    "payment in quarantine": "max(aishop_payments_quarantine_oldest_seconds)",
                },
                unit="s",
            ),
            Panel(
                "Handled, by type",
                {
                    "{{type}} {{outcome}}": "sum by (type, outcome)"
                    f" (rate(aishop_payments_stripe_events_total{_RATE}))"
                },
                unit="reqps",
            ),
        ),
        "Stripe API": (
            Panel(
                "Calls",
                {
                    "{{call}} {{outcome}}": "sum by (call, outcome)"
                    f" (rate(aishop_payments_stripe_call_duration_seconds_count{_RATE}))"
                },
                unit="reqps",
            ),
            Panel("Latency", _quantiles("aishop_payments_stripe_call_duration_seconds"), unit="s"),
            Panel(
                "Owed to customers",
                {
                    "orders": "max(aishop_orders_owed)",
                    "minor units": "max(aishop_orders_owed_cents)",
                },
            ),
            Panel(
                "Drift and quarantine",
                {
                    "{{kind}}": "sum by (kind) (increase(aishop_payments_drift_total[1h])) > 0",
                    "in quarantine": "max(aishop_payments_quarantine_parked)",
                    "came into quarantine": "sum(increase(aishop_payments_quarantined_total[1h]))",
                    "minutes since the last comparison": "(time()"
                    " - max(aishop_payments_reconciled_timestamp_seconds)) / 60",
                },
            ),
        ),
        "Sagas and holds": (
            Panel(
                "Sagas",
                {"{{saga}} {{status}}": "max by (saga, status) (aishop_orders_saga_runs) > 0"},
            ),
            Panel(
                "Oldest, and longest due",
                {
                    "{{saga}} {{status}}": "max by (saga, status) (aishop_orders_saga_oldest_seconds) > 0",
                    "{{saga}} {{status}}, due": "max by (saga, status) (aishop_orders_saga_late_seconds) > 0",
                },
                unit="s",
            ),
            Panel(
                "Tries of the worst",
                {"{{saga}} {{status}}": "max by (saga, status) (aishop_orders_saga_attempts) > 0"},
            ),
            Panel(
                "Holds",
                {
                    "open": "max(aishop_wallet_holds_open)",
                    "asked about most": "max(aishop_wallet_hold_most_asked)",
                },
            ),
            Panel("Oldest hold", {"hold": "max(aishop_wallet_hold_oldest_seconds)"}, unit="s"),
            Panel(
                "Mails",
                {
                    "unsent": "max(aishop_orders_mails_unsent)",
                    "put off": "max(aishop_orders_mails_put_off)",
                    "in doubt": "max(aishop_orders_mails_in_doubt)",
                    "refused": "max(aishop_orders_mails_refused)",
                    "age of the oldest in minutes": "max(aishop_orders_mail_oldest_seconds) / 60",
                },
            ),
        ),
        "Messages": (
            Panel(
                "Outbox",
                {
                    "{{job}} unsent": "max by (job) (aishop_outbox_unsent)",
                    "{{job}} sent a second": f"sum by (job) (rate(aishop_outbox_sent_total{_RATE}))",
                },
            ),
            Panel("Oldest unsent", {"{{job}}": "max by (job) (aishop_outbox_oldest_seconds)"}, unit="s"),
            Panel(
                "Pending",
                {
                    "{{consumer}}": "max by (consumer) (aishop_consumer_pending_messages)",
                    "{{consumer}} unacknowledged": "max by (consumer)"
                    " (aishop_consumer_unacknowledged_messages)",
                },
            ),
            Panel(
                "Handled",
                {
                    "{{consumer}} {{outcome}}": "sum by (consumer, outcome)"
                    f" (rate(aishop_consumer_messages_total{_RATE}))"
                },
                unit="reqps",
            ),
            Panel("Dead letters", {"{{consumer}}": "max by (consumer) (aishop_dead_letters)"}),
            Panel(
                "Broken invariants",
                {"{{job}} {{invariant}}": "max by (job, invariant) (aishop_invariant_violations)"},
            ),
        ),
        "Processes": (
            Panel(
                "Connections",
                {
                    "{{job}} {{pool}}": "max by (job, pool)"
                    " (aishop_database_pool_in_use / aishop_database_pool_size)"
                },
                unit="percentunit",
            ),
            Panel(
                "Waited for a connection in vain",
                {
                    "{{job}} {{pool}}": "sum by (job, pool)"
                    f" (rate(aishop_database_pool_timeouts_total{_RATE}))"
                },
            ),
            Panel(
                "Connections to Postgres given up for their silence",
                {"{{job}}": f"sum by (job) (rate(aishop_database_deadlines_total{_RATE}))"},
            ),
            Panel(
                "Followers",
                {"{{method}}": "sum by (method) (aishop_rpc_streams)"},
            ),
            Panel(
                "CPU",
                {"{{job}}": f"sum by (job) (rate(process_cpu_seconds_total{_RATE}))"},
                unit="percentunit",
            ),
            Panel("Memory", {"{{job}}": "max by (job) (process_resident_memory_bytes)"}, unit="bytes"),
            Panel(
                "Certificates end in",
                {
                    "{{job}} {{certificate}}": "min by (job, certificate)"
                    " (aishop_tls_certificate_expiry_timestamp_seconds) - time()"
                },
                unit="s",
                kind="stat",
            ),
            Panel(
                "Age of the oldest sample",
                {"{{job}}": "time() - min by (job) (aishop_sampled_timestamp_seconds)"},
                unit="s",
            ),
        ),
    },
)


def as_json(dashboard: Dashboard) -> str:
    """As Grafana reads it from a file."""
    return json.dumps(
        {
            "uid": dashboard.uid,
            "title": dashboard.title,
            "tags": ["aishop"],
            "timezone": "browser",
            "editable": False,
            "schemaVersion": 41,
            "refresh": "30s",
            "time": {"from": f"now-{dashboard.hours}h", "to": "now"},
            "panels": _placed(dashboard.rows),
        },
        indent=1,
    )


def _placed(rows: Mapping[str, Sequence[Panel]]) -> list[dict[str, Any]]:
    placed: list[dict[str, Any]] = []
    y = 0
    for title, panels in rows.items():
        placed.append(
            {"id": len(placed) + 1, "type": "row", "title": title, "collapsed": False, "panels": []}
            | {"gridPos": {"x": 0, "y": y, "w": _COLUMNS, "h": 1}}
        )
        y, x = y + 1, 0
        for panel in panels:
            if x + panel.width > _COLUMNS:
                y, x = y + _HEIGHT, 0
            position = {"x": x, "y": y, "w": panel.width, "h": _HEIGHT}
            placed.append(_panel(panel) | {"id": len(placed) + 1, "gridPos": position})
            x += panel.width
        y += _HEIGHT
    return placed


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": _DATASOURCE, "expr": query, "legendFormat": legend}
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }


FILES = {"business.json": BUSINESS, "operations.json": OPERATIONS}


def main() -> None:
    for name, dashboard in FILES.items():
        (FOLDER / name).write_text(as_json(dashboard) + "\n")


if __name__ == "__main__":
    main()
