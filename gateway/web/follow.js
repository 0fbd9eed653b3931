// A frontend of this origin may leave the customer's token in sessionStorage before it goes to Stripe: then this
// page says what became of the payment the moment it is known. Without it the page claims nothing.
const PAID = {
  checkout: ['Paid. Thank you.', 'Your points are being added to your account.'],
  order: ['Paid. Thank you.', 'Your order is complete.'],
};
const FAILED = ['This was not paid.', 'Nothing was bought. '];

function say([title, told]) {
  document.getElementById('title').textContent = title;
  document.getElementById('told').textContent = told;
}

function show(name, seen) {
  if (['paid', 'completed'].includes(seen.status)) say(PAID[name]);
  if (['failed', 'expired', 'cancelled'].includes(seen.status)) {
    say([FAILED[0], FAILED[1] + (seen.failureReason ? `Reason: ${seen.failureReason.replaceAll('_', ' ')}.` : '')]);
  }
  if (seen.status === 'refunded') say(['Your money is on its way back.', 'What you wanted was gone.']);
}

// EventSource sends no Authorization header, hence fetch. Returns the last state once it is final.
async function follow(path, token) {
  let last = '', seen = null;
  for (;;) {
    const headers = { Authorization: `Bearer ${token}`, ...(last && { 'Last-Event-ID': last }) };
    const answer = await fetch(path, { headers });
    if (answer.status !== 200) return seen;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = '', part; !(part = await reader.read()).done;) {
      text += part.value;
      const events = text.split('\n\n');
      text = events.pop();
      for (const event of events.map((lines) => Object.fromEntries(lines.split('\n').map((line) => line.split(/: (.*)/s))))) {
        if (event.event === 'end') return seen;
        if (event.id) { last = event.id; seen = JSON.parse(event.data); show(event.event, seen); }
      }
    }
    await new Promise((resume) => setTimeout(resume, 2000));
  }
}

(async () => {
  const token = sessionStorage.getItem('aishop.token');
  const id = new URLSearchParams(location.search).get('checkout_id');
  if (!token || !/^[0-9a-f-]{36}$/i.test(id || '')) return;
  const checkout = await follow(`/api/checkouts/${id}/events`, token);
  if (checkout && checkout.orderId) await follow(`/api/orders/${checkout.orderId}/events`, token);
})();
