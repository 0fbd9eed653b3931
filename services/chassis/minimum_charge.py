"""The least that Stripe charges, by currency: docs.stripe.com/currencies#minimum-and-maximum-charge-amounts.

A price below it can be shown and never be paid, so it is refused where it is set.
"""

# Minor units of each currency; yen have none.
_MINIMUM_CENTS = {
    "aed": 200,
    "aud": 50,
    "bgn": 100,
    "brl": 50,
    "cad": 50,
    "chf": 50,
    "czk": 1500,
    "dkk": 250,
    "eur": 50,
    "gbp": 30,
    "hkd": 400,
    "huf": 17500,
    "inr": 50,
    "jpy": 50,
    "mxn": 1000,
    "myr": 200,
    "nok": 300,
    "nzd": 50,
    "pln": 200,
    "ron": 200,
    "sek": 300,
    "sgd": 50,
    "thb": 1000,
    "usd": 50,
}


def minimum_charge_cents(currency: str) -> int:
    """Of a currency that is not in the table the least is what it converts to: nobody knows before."""
    return _MINIMUM_CENTS.get(currency.lower(), 1)
