"""A healthy hour of a shop that sells, in which one event of Stripe is set aside and acknowledged: no alert
of any kind, at no minute. Promtool judges, over all rules at once."""

from pathlib import Path

import pytest
import yaml

from tests.contract.test_alerts import ALERTS, RULE_FILES, promtool, run
from tests.support.promql import selectors

__all__ = ["promtool"]

# Promtool begins in 1970: an hour ago is none of its times before the second one.
_FROM, _MINUTES = 65, 126
_UNSEEN = "aishop_payments_stripe_events_set_aside_unseen"
_SERVICES = ("wallet", "orders", "payments")
# A request or call, by how long it took: all of them at once.
_QUICK = ("0.1", "1.0", "+Inf")
GROWING = {
    'aishop_http_request_duration_seconds_count{job="gateway", route="/api/products", status="200"}': 60,
    **{
        f'aishop_http_request_duration_seconds_bucket{{job="gateway", route="/api/products", le="{le}"}}': 60
        for le in _QUICK
    },
    **{f'aishop_rpc_duration_seconds_count{{job="{job}", method="M", code="OK"}}': 90 for job in _SERVICES},
    'aishop_consumer_messages_total{job="wallet", consumer="wallet__grant", outcome="handled"}': 5,
    'aishop_orders_decided_total{job="orders", payment_method="points", status="completed", reason="x"}': 3,
    'aishop_orders_decided_total{job="orders", payment_method="stripe", status="failed", reason="x"}': 0,
    'aishop_orders_completed_points_sum{job="orders"}': 100,
    'aishop_orders_completed_cents_sum{job="orders"}': 1_000,
    'aishop_wallet_transaction_points_sum{job="wallet", type="adjustment", direction="in"}': 1,
    'aishop_payments_webhooks_total{job="payments", outcome="received"}': 6,
    'aishop_payments_webhooks_total{job="payments", outcome="refused"}': 0,
    **{f'aishop_payments_webhook_delivery_seconds_bucket{{job="payments", le="{le}"}}': 6 for le in _QUICK},
    'aishop_payments_stripe_call_duration_seconds_count{job="payments", call="c", outcome="ok"}': 12,
    **{
        f'aishop_payments_stripe_call_duration_seconds_bucket{{job="payments", call="c", le="{le}"}}': 12
        for le in _QUICK
    },
    # A time that goes on.
    'aishop_payments_reconciled_timestamp_seconds{job="payments"}': 60,
    **{f'aishop_sampled_timestamp_seconds{{job="{job}", sample="s"}}': 60 for job in _SERVICES},
}
STANDING = {
    **{f'up{{job="{job}"}}': 1 for job in (*_SERVICES, "gateway")},
    **{f'aishop_database_pool_in_use{{job="{job}", pool="app"}}': 2 for job in _SERVICES},
    **{f'aishop_database_pool_size{{job="{job}", pool="app"}}': 10 for job in _SERVICES},
    'aishop_tls_certificate_expiry_timestamp_seconds{job="wallet", certificate="own"}': 30 * 86_400,
    # Asked a moment ago, and answered.
    'aishop_wallet_hold_oldest_seconds{job="wallet"}': 20,
    'aishop_outbox_oldest_seconds{job="payments"}': 1,
    'aishop_orders_mail_oldest_seconds{job="orders"}': 5,
}
# Whatever else a rule asks for counts what should not be: it is told, and 0.
_NAMED = {name for rule in ALERTS.values() for name, _ in selectors(rule["expr"])}
NOTHING = {
    f'{name}{{job="payments"}}': 0
    for name in sorted(_NAMED)
    if name.startswith("aishop_") and not any(each.startswith(f"{name}{{") for each in (*GROWING, *STANDING))
}


def judged(promtool: str, folder: Path, **instead: int) -> None:
    """AssertionError with what promtool says when any alert fires."""
    standing = STANDING | NOTHING | {f'{name}{{job="payments"}}': value for name, value in instead.items()}
    series = [
        *({"series": name, "values": f"0+{step}x{_MINUTES}"} for name, step in GROWING.items()),
        *({"series": name, "values": f"{value}x{_MINUTES}"} for name, value in standing.items()),
    ]
    hour = {
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": []}
            for alert in ALERTS
            for minute in range(_FROM, _MINUTES, 20)
        ],
    }
    rules = {"rule_files": [str(file) for file in RULE_FILES], "evaluation_interval": "1m", "tests": [hour]}
    cases = folder / "hour.yml"
    cases.write_text(yaml.safe_dump(rules))
    run(promtool, "test", "rules", cases)


def test_a_healthy_hour_shows_no_alert(promtool: str, tmp_path: Path) -> None:
    """Of events that were set aside only those count that nobody has acknowledged: here none."""
    assert f'{_UNSEEN}{{job="payments"}}' in NOTHING
    judged(promtool, tmp_path)


@pytest.mark.parametrize("broken", [_UNSEEN])
def test_the_hour_would_show_one(promtool: str, tmp_path: Path, broken: str) -> None:
    with pytest.raises(AssertionError):
        judged(promtool, tmp_path, **{broken: 1})
