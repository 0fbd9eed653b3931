// EventSource sends no Authorization header, hence fetch. Calls `show` with the name and data of each event;
// returns the last data once it is final, or when there is nothing to be had with this token.
async function follow(path, token, show) {
  let last = '', seen = null;
  for (;;) {
    try {
      const headers = { Authorization: `Bearer ${token}`, ...(last && { 'Last-Event-ID': last }) };
      const answer = await fetch(path, { headers });
      if (answer.ok) {
        for await (const event of eventsOf(answer.body)) {
          if (event.event === 'end') return seen;
          if (event.id) { last = event.id; seen = JSON.parse(event.data); show(event.event, seen); }
        }
      } else if (answer.status < 500 && answer.status !== 429) {
        return seen;
      }
    } catch (error) {
      // The connection broke, or nobody was there: what was missed comes after the next one.
      console.warn(error);
    }
    await new Promise((resume) => setTimeout(resume, 2000));
  }
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = '', part; !(part = await reader.read()).done;) {
    text += part.value;
    const events = text.split('\n\n');
    text = events.pop();
    for (const lines of events) {
      yield Object.fromEntries(lines.split('\n').map((line) => line.split(/: (.*)/s)));
    }
  }
}
