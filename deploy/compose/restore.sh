#!/bin/sh
# sh deploy/compose/restore.sh FOLDER: into empty volumes, before anything runs (docs/backup.md). Nothing is ever
# unpacked over a cluster, and NATS has to be empty: its consumers have acknowledged facts whose effects the backup
# does not have. Pictures are added where there are none; those that are there stay.
set -eu
folder=${1:?usage: sh deploy/compose/restore.sh FOLDER}
sh "$(dirname "$0")/check-backup.sh" "$folder/shop.tar" "$folder/assets.tar"

in_container() {
    docker compose run --rm --no-deps -T --entrypoint sh "$@"
}

in_container nats -c 'if [ -n "$(ls -A /data)" ]; then
    echo "the volume of nats is not empty: stop the shop and remove it (docs/backup.md)" >&2; exit 1; fi' </dev/null
in_container postgres -c 'if [ -n "$(ls -A /var/lib/postgresql)" ]; then
    echo "the volume of postgres is not empty: stop the shop and remove it (docs/backup.md)" >&2; exit 1; fi
    mkdir -p /var/lib/postgresql/18/docker && tar -x -C /var/lib/postgresql/18/docker &&
    chown -R postgres:postgres /var/lib/postgresql && chmod 700 /var/lib/postgresql/18/docker' <"$folder/shop.tar"
in_container seed-orders -c 'if [ -z "$(ls -A /data)" ]; then tar -x -C /data; fi' <"$folder/assets.tar"
echo "restored: docker compose up --detach"
