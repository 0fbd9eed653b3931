#!/bin/sh
# sh deploy/compose/backup.sh FOLDER: the three databases at one moment, and the pictures (docs/backup.md).
# Whatever it takes has to hold what it must, or there is no backup: an empty volume of another project's name
# makes no file.
set -eu
folder=${1:?usage: sh deploy/compose/backup.sh FOLDER}
umask 077
mkdir -p "$folder"
for file in shop.tar assets.tar; do
    if [ -e "$folder/$file" ]; then
        echo "$folder has a backup already: take another folder" >&2
        exit 1
    fi
done

docker compose exec -T --user postgres postgres \
    pg_basebackup -U postgres -D - --format=tar --wal-method=fetch --checkpoint=fast >"$folder/shop.part"
docker compose run --rm --no-deps -T --entrypoint tar orders -c -C /data . >"$folder/assets.part"

sh "$(dirname "$0")/check-backup.sh" "$folder/shop.part" "$folder/assets.part"
mv "$folder/shop.part" "$folder/shop.tar"
mv "$folder/assets.part" "$folder/assets.tar"
echo "$folder: $(du -sh "$folder" | cut -f1)"
