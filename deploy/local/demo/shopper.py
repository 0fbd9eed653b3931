"""A customer (or an operator) at the REST API, and at Stripe's hosted page."""

from typing import Any, Protocol
from uuid import UUID, uuid4

import httpx

from deploy.local import tokens


class Shop(Protocol):
    """Where a shop is, and how its customers' tokens are signed."""

    @property
    def gateway_url(self) -> str: ...

    @property
    def auth_jwt_secret(self) -> str: ...


class Shopper:
    """One signed-in customer. Every answer that is not 2xx raises with the problem's text."""

    def __init__(self, shop: Shop, *, email: str, operator: bool = False) -> None:
        self.user_id: UUID = uuid4()
        self.email = email
        token = tokens.mint(
            secret=shop.auth_jwt_secret,
            user_id=self.user_id,
            email=email,
            operator=operator,
            ttl_seconds=3600,
        )
        self._http = httpx.Client(
            base_url=shop.gateway_url, headers={"Authorization": f"Bearer {token}"}, timeout=10
        )
        self._browser = httpx.Client(timeout=10)

    def get(self, path: str) -> Any:
        return _body(self._http.get(path))

    def post(self, path: str, body: Any) -> Any:
        return _body(self._http.post(path, json=body, headers={"Idempotency-Key": str(uuid4())}))

    def download(self, url: str) -> tuple[str, bytes]:
        """A file's type and bytes, wherever the shop keeps it."""
        answer = self._http.get(url, follow_redirects=True)
        if not answer.is_success:
            raise RuntimeError(f"{url}: {answer.text}")
        return answer.headers["Content-Type"], answer.content

    def pay(self, url: str) -> int:
        """Presses "pay" on the hosted page; returns the status of the answer (303 to the shop)."""
        return self._browser.post(url, data={"action": "pay"}).status_code

    def close(self) -> None:
        self._http.close()
        self._browser.close()


def _body(response: httpx.Response) -> Any:
    if response.is_success:
        return response.json()
    raise RuntimeError(f"{response.request.method} {response.request.url}: {response.text}")
