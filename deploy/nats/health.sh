#!/bin/sh
# Whether NATS is well, for the healthcheck of docker-compose.yml. Its full check, since the short ones say "ok"
# after a stream could not be written (disk full, read-only, no descriptors left): from then on it takes nothing
# until NATS is started again. After three such answers in a row this ends NATS, and the container's restart
# policy starts it. Before the first good answer it is only starting.
url=${NATS_HEALTH_URL:-http://127.0.0.1:8222/healthz}
pid=${NATS_PID:-1}
count=${NATS_HEALTH_FILE:-/tmp/nats-unwell}

if wget -q -T 4 -O /dev/null "$url"; then
    echo 0 >"$count"
    exit 0
fi
[ -f "$count" ] || exit 1
unwell=$(($(cat "$count") + 1))
echo "$unwell" >"$count"
if [ "$unwell" -ge 3 ]; then
    rm -f "$count"
    kill -TERM "$pid"
fi
exit 1
