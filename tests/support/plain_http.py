"""Clients of servers on this machine, which speak HTTP without TLS."""

import ssl

# httpx reads every certificate authority for each client, 20 ms of CPU; this trusts nobody and is made once.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
