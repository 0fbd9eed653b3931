// A frontend of this origin may leave the customer's token in sessionStorage before it goes to Stripe: then this
// page says what became of the payment the moment it is known. Without it the page claims nothing.
const PAID = 'Paid. Thank you.';

function say([title, told]) {
  document.getElementById('title').textContent = title;
  document.getElementById('told').textContent = told;
}

function because(seen) {
  return seen.failureReason ? `Reason: ${seen.failureReason.replaceAll('_', ' ')}.` : '';
}

function show(_, seen) {
  if (seen.status === 'paid') {
    say([PAID, seen.orderId ? 'Your order is being completed.' : 'Your points are being added to your account.']);
  }
  if (seen.status === 'completed') say([PAID, 'Your order is complete.']);
  if (['failed', 'expired', 'cancelled'].includes(seen.status)) {
    say(['This was not paid.', `Nothing was bought. ${because(seen)}`]);
  }
  if (seen.status === 'refunded') say(['Your money is on its way back.', because(seen)]);
}

(async () => {
  const token = sessionStorage.getItem('aishop.token');
  const id = new URLSearchParams(location.search).get('checkout_id');
  if (!token || !/^[0-9a-f-]{36}$/i.test(id || '')) return;
  const checkout = await follow(`/api/checkouts/${id}/events`, token, show);
  if (!checkout || !checkout.orderId) return;
  const order = document.getElementById('order');
  order.href = `/orders/${checkout.orderId}`;
  order.hidden = false;
  await follow(`/api/orders/${checkout.orderId}/events`, token, show);
})();
