#!/bin/sh
# Whether NATS is well, for the healthcheck of docker-compose.yml. Its full check, since the short ones say "ok"
# after a stream could not be written (disk full, read-only, no descriptors left): from then on it takes nothing
# until NATS is started again. After three such answers (503) in a row this ends NATS, and the container's restart
# policy starts it. Before the first good answer it is only starting.
url=${NATS_HEALTH_URL:-http://127.0.0.1:8222/healthz}
pid=${NATS_PID:-1}
count=${NATS_HEALTH_FILE:-/tmp/nats-unwell}

# Without -q: why it failed is said on its standard error, by busybox and by GNU's in words of their own.
if said=$(LC_ALL=C wget -T 4 -O /dev/null "$url" 2>&1); then
    echo 0 >"$count"
    exit 0
fi
[ -f "$count" ] || exit 1
# A time-out or a refused connection is no answer: a busy machine, or a NATS that is starting or ending by itself.
case $said in
*" 503"*) ;;
*) exit 1 ;;
esac
unwell=$(($(cat "$count") + 1))
echo "$unwell" >"$count"
if [ "$unwell" -ge 3 ]; then
    rm -f "$count"
    kill -TERM "$pid"
fi
exit 1
