"""Payment intents (https://docs.stripe.com/api/payment_intents/object)."""

from deploy.local.stripe_sandbox.objects import Fields, new_id, nulls

_NULLS = nulls(
    "allowed_payment_method_types application application_fee_amount automatic_payment_methods canceled_at"
    " cancellation_reason customer customer_account description excluded_payment_method_types hooks"
    " last_payment_error latest_charge managed_payments next_action on_behalf_of payment_details"
    " payment_method payment_method_configuration_details payment_record presentment_details processing"
    " receipt_email review setup_future_usage shipping source statement_descriptor"
    " statement_descriptor_suffix transfer_data transfer_group"
)


def build(session: Fields, *, now: int) -> Fields:
    """The intent behind a session; Checkout makes it when the customer first submits a card."""
    id = new_id("pi")
    return _NULLS | {
        "id": id,
        "object": "payment_intent",
        "amount": session["amount_total"],
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "capture_method": "automatic_async",
        "client_secret": f"{id}_secret_{new_id('s')}",
        "confirmation_method": "automatic",
        "created": now,
        "currency": session["currency"],
        "livemode": False,
        "metadata": session["payment_intent_data"],
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "status": "requires_payment_method",
    }


def declined(intent: Fields) -> Fields:
    """After a card was refused: open for another one."""
    problem = {
        "type": "card_error",
        "code": "card_declined",
        "decline_code": "generic_decline",
        "message": "Your card was declined.",
    }
    return intent | {"status": "requires_payment_method", "last_payment_error": problem}


def succeeded(intent: Fields, *, charge_id: str, payment_method: str) -> Fields:
    return intent | {
        "status": "succeeded",
        "amount_received": intent["amount"],
        "latest_charge": charge_id,
        "payment_method": payment_method,
        "last_payment_error": None,
    }
