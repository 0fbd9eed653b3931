"""A Stripe to pay at without Stripe: its wire format over HTTP, a payment page, signed webhooks.

The official client talks to it unchanged through its API base. Left out of Stripe: everything that the shop
does not use; how long webhooks are retried (hours there, for ever here, at most 30 s apart).
"""
