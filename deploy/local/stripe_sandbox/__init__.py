"""Stripe's test mode on this machine: its wire format, its payment page, its webhooks.

The shop cannot tell it from api.stripe.com: it is reached through the official client's API base. It knows
only what the shop uses, and says `parameter_unknown` to the rest. `/_control/` scripts its accidents.
"""
