#!/bin/sh
# sh check-backup.sh SHOP.TAR ASSETS.TAR: whether they hold what a shop cannot be restored without.
set -eu
names=$(tar -tf "$1" 2>/dev/null) || { echo "$1 is no archive: it is cut off, or empty" >&2; exit 1; }
for needed in PG_VERSION backup_label global/pg_control base/; do
    # Everything after the name of a folder, too.
    if ! printf '%s\n' "$names" | grep -q "^\(\./\)\{0,1\}$needed"; then
        echo "$1 holds no whole cluster: $needed is missing" >&2
        exit 1
    fi
done
if ! tar -tf "$2" 2>/dev/null | grep -q '[^/]$'; then
    echo "$2 holds no picture: is COMPOSE_PROJECT_NAME in .env the name of the shop that runs?" >&2
    exit 1
fi
