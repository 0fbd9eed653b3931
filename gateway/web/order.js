// What a mail links to: the order, its downloads and what becomes of it, for whoever has the customer's token. A
// frontend of this origin may have left it in sessionStorage; else it is asked for.
const STORED = 'aishop.token';
const id = location.pathname.split('/').pop();
const at = (name) => document.getElementById(name);
const TITLES = {
  pending: 'Not paid yet.',
  processing: 'Your payment is on its way.',
  completed: 'Paid. Thank you.',
  failed: 'This was not paid.',
  cancelled: 'This was cancelled.',
  refunded: 'What you paid went back to you.',
};

function amount(order, cents, points) {
  return order.paymentMethod === 'points' ? `${points} points` : `${(cents / 100).toFixed(2)} ${order.currency.toUpperCase()}`;
}

function row(...cells) {
  const line = document.createElement('tr');
  line.append(...cells.map((cell) => { const box = document.createElement('td'); box.append(cell); return box; }));
  return line;
}

function told(order) {
  const words = [];
  if (order.failureReason) words.push(`Reason: ${order.failureReason.replaceAll('_', ' ')}.`);
  if (order.dispute === 'open') words.push('The payment is disputed: until your bank has decided, nothing can be downloaded.');
  if (order.refundedCents || order.refundedPoints) words.push(`${amount(order, order.refundedCents, order.refundedPoints)} went back to you.`);
  if (order.trackingInfo) words.push(`Sent with ${order.trackingInfo.carrier}, number ${order.trackingInfo.number}.`);
  return words.join(' ');
}

function link(name, url) {
  at(name).hidden = !url;
  if (url) at(name).href = url;
}

function show(order) {
  at('sign-in').hidden = true;
  at('order').hidden = false;
  at('title').textContent = TITLES[order.status];
  at('told').textContent = told(order);
  at('lines').replaceChildren(
    ...order.items.map((item) => row(
      `${item.quantity} × ${item.title}`,
      amount(order, item.priceCents * item.quantity, item.pricePoints * item.quantity),
      item.refundedQuantity ? `${item.refundedQuantity} given back` : '',
    )),
    row('Total', amount(order, order.totalCents, order.totalPoints), ''),
  );
  link('pay', order.status === 'pending' && order.url);
  link('parcel', order.trackingInfo && order.trackingInfo.url);
}

async function ask(path, token, method = 'GET') {
  const answer = await fetch(path, { method, headers: { Authorization: `Bearer ${token}` } });
  if (!answer.ok) throw new Error((await answer.json()).title);
  return answer;
}

async function save(download, token) {
  const answer = await ask(download.url, token);
  const file = document.createElement('a');
  file.href = URL.createObjectURL(await answer.blob());
  file.download = decodeURIComponent(/filename\*=UTF-8''(.*)/.exec(answer.headers.get('Content-Disposition'))[1]);
  file.click();
  URL.revokeObjectURL(file.href);
}

function renew(download, token) {
  return ask(`/api/orders/${id}/downloads/${download.productId}/reissue`, token, 'POST');
}

function button(text, act, token) {
  const made = document.createElement('button');
  made.textContent = text;
  made.onclick = async () => {
    made.disabled = true;
    at('trouble').textContent = '';
    try { await act(); } catch (error) { at('trouble').textContent = `That did not work: ${error.message}.`; }
    await showDownloads(token);
  };
  return made;
}

function offered(download, token) {
  const until = new Date(download.expiresAt).toLocaleDateString();
  if (download.url) return [`${download.downloadsLeft} left until ${until}`, button('Download', () => save(download, token), token)];
  if (download.status !== 'active') return [download.status, ''];
  return ['used up', download.reissuesLeft ? button('Renew', () => renew(download, token), token) : ''];
}

async function showDownloads(token) {
  const { items } = await (await ask(`/api/orders/${id}/downloads`, token)).json();
  at('downloads').hidden = !items.length;
  at('files').replaceChildren(...items.map((download) => row(download.title, ...offered(download, token))));
}

async function openWith(token) {
  let order;
  try {
    order = await (await ask(`/api/orders/${id}`, token)).json();
  } catch (error) {
    sessionStorage.removeItem(STORED);
    at('told').textContent = `That did not work: ${error.message}.`;
    return;
  }
  sessionStorage.setItem(STORED, token);
  show(order);
  await showDownloads(token);
  await follow(`/api/orders/${id}/events`, token, (_, seen) => { show(seen); showDownloads(token).catch(console.warn); });
}

at('sign-in').onsubmit = (event) => { event.preventDefault(); openWith(at('token').value.trim()); };
at('number').textContent = id;
if (sessionStorage.getItem(STORED)) openWith(sessionStorage.getItem(STORED));
