"""Customers who keep buying, whatever happens to the shop, and who remember what it promised them."""

import threading
import time
from collections import Counter
from typing import Any
from uuid import uuid4

import httpx

from deploy.local import tokens

_PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 0.2
_OUT_OF_POINTS = 402


class GaveUpError(RuntimeError):
    """The shop did not answer, or did not do what it had promised, in all the time that a customer has."""


class Customer:
    """Buys until told to stop: points, images with points, images by card. One thread runs it."""

    def __init__(self, *, gateway_url: str, auth_jwt_secret: str, email: str) -> None:
        user_id = uuid4()
        token = tokens.mint(
            secret=auth_jwt_secret, user_id=user_id, email=email, operator=False, ttl_seconds=3600
        )
        headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=gateway_url, headers=headers, timeout=10, trust_env=False)
        self.counts: Counter[str] = Counter()
        # Every order that the shop acknowledged: these must exist, and be completed, in the end.
        self.promised: list[str] = []
        self.failure: BaseException | None = None

    def buy_until(self, stop: threading.Event) -> None:
        """What goes wrong is kept for whoever waits for this thread."""
        try:
            while not stop.is_set():
                self._buy_with_points()
                self._buy_by_card()
        except BaseException as error:
            self.failure = error
            raise

    def settle(self) -> None:
        """Waits until every promised order is completed."""
        for order_id in self.promised:
            self._until(f"/api/orders/{order_id}", "status", "completed")
        self.counts["orders completed"] = len(self.promised)

    def close(self) -> None:
        self._http.close()

    def _buy_with_points(self) -> None:
        body = {"paymentMethod": "points", "items": [{"productId": self._product(), "quantity": 1}]}
        answer = self._insist("POST", "/api/checkout", body)
        if answer.status_code == _OUT_OF_POINTS or self._was_refused_later(answer.json()):
            self._buy_points()
            return
        self._promise(answer, "orders with points")

    def _was_refused_later(self, answer: Any) -> bool:
        """Whoever is told `pending`, since nobody knew, follows the order: it may yet cost too much."""
        if answer.get("status") != "pending":
            return False
        path = f"/api/orders/{answer['orderId']}"
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (order := self._see(path))["status"] == "pending":
            self._rest(deadline, f"{path}: {order}")
        return bool(order["failureReason"] == "insufficient_points")

    def _buy_by_card(self) -> None:
        body = {"paymentMethod": "stripe", "items": [{"productId": self._product(), "quantity": 1}]}
        order_id = self._promise(self._insist("POST", "/api/checkout", body), "orders by card")
        self._pay(self._page(f"/api/orders/{order_id}"))

    def _buy_points(self) -> None:
        opened = self._insist("POST", "/api/checkout/points", {"packageId": "basic"})
        before = self._see("/api/profile")["points"]
        self._pay(self._page(f"/api/checkouts/{opened.json()['checkoutId']}"))
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._see("/api/profile")["points"] <= before:
            self._rest(deadline, "bought points do not arrive")
        self.counts["points bought"] += 1

    def _promise(self, answer: httpx.Response, what: str) -> str:
        if not answer.is_success:
            raise GaveUpError(f"{answer.status_code}: {answer.text}")
        order_id = str(answer.json()["orderId"])
        self.promised.append(order_id)
        self.counts[what] += 1
        return order_id

    def _product(self) -> str:
        """The cheapest picture that points buy."""
        items = [item for item in self._see("/api/products")["items"] if item["pricePoints"]]
        return str(min(items, key=lambda item: item["pricePoints"])["id"])

    def _page(self, path: str) -> str:
        """Stripe's page, as soon as it is open."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not (url := self._see(path)["url"]):
            self._rest(deadline, f"{path}: no page to pay at")
        return str(url)

    def _pay(self, url: str) -> None:
        answer = httpx.post(url, data={"action": "pay"}, timeout=15, trust_env=False)
        if answer.status_code >= 400:
            raise GaveUpError(f"the hosted page: {answer.status_code}")

    def _see(self, path: str) -> Any:
        return self._insist("GET", path).json()

    def _until(self, path: str, member: str, value: str) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (seen := self._see(path))[member] != value:
            self._rest(deadline, f"{path}: {seen}")

    def _insist(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Repeats a request under one key until it is answered by something else than "not now"."""
        key = str(uuid4())
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (answer := self._once(method, path, body, key)) is None:
            self._rest(deadline, f"{method} {path}: no answer")
            self.counts["requests repeated"] += 1
        self.counts["requests answered"] += 1
        return answer

    def _once(self, method: str, path: str, body: Any, key: str) -> httpx.Response | None:
        try:
            answer = self._http.request(method, path, json=body, headers={"Idempotency-Key": key})
        except httpx.TransportError:
            return None
        is_in_flight = answer.status_code == 409 and answer.json()["code"] == "request_in_flight"
        return None if answer.status_code >= 500 or answer.status_code == 429 or is_in_flight else answer

    def _rest(self, deadline: float, what: str) -> None:
        if time.monotonic() > deadline:
            raise GaveUpError(f"{what} within {_PATIENCE_SECONDS:.0f} s")
        time.sleep(_PAUSE_SECONDS)
