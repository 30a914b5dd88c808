# SQLite, by its own backup command. CAPMIG_DATABASE is the file's path in the app's volume, which is mounted here too.
database=$CAPMIG_DATABASE

check() {
    need sqlite3 gzip sha256sum
    [ -f "$database" ] || fail "there is no file $database in the app's volumes"
    sqlite3 -readonly "$database" 'SELECT count(*) FROM sqlite_master' > /dev/null 2> "$work/errors" || fail "$database cannot be read: $(words "$work/errors")"
    room "$(bytes "$database")"
    # A restore puts a second file beside it.
    [ "$(df -Pk "${database%/*}" | awk 'NR == 2 { printf "%.0f\n", $4 * 1024 }')" -gt "$(bytes "$database")" ] ||
        fail "too little space beside $database to restore it"
    tell "method=rename client=$(sqlite3 --version | cut -d ' ' -f 1)"
}

# $1: where the packed copy goes.
copy_to() {
    # A quote in the path is doubled within quotes.
    run sqlite3 -readonly "$database" ".timeout 60000" ".backup '$(say "$work/copy" | sed "s/'/''/g")'" 2> "$work/errors" || return 1
    [ "$(sqlite3 "$work/copy" 'PRAGMA integrity_check')" = ok ] || { say "the database is damaged" > "$work/errors"; return 1; }
    tick "$1" packing
    status=0
    run pack "$1" 2> "$work/errors" || status=$?
    untick
    return "$status"
}
pack() { gzip -1 -c "$work/copy" > "$1"; }

dump() {
    room "$(bytes "$database")"
    mkdir -p "${file%/*}"
    rm -rf "${file%/*}"/*.part "${file%/*}"/copy.part.*
    # The copy is made where there is space for it.
    rm -rf "$work"
    work=$(mktemp -d "${file%/*}/copy.part.XXXXXX")
    copy_to "$file.part" && gzip -t "$file.part" || { why=$(words "$work/errors"); rm -f "$file.part"; fail "the backup failed: $why"; }
    unproven=$file.part
    ! verifies || try_restore "$file.part"
    keep "$file.part"
}

# Unpacks the file $1 beside the copy that it was made from, and compares.
try_restore() {
    gzip -dc "$1" > "$work/again" 2> "$work/errors" || fail "the backup cannot be unpacked: $(words "$work/errors")"
    [ "$(sqlite3 "$work/again" 'PRAGMA integrity_check')" = ok ] || fail "the backup is damaged"
    count_rows "$work/copy" > "$work/counts"
    count_rows "$work/again" > "$work/restored"
    compare "$work/counts" "$work/restored"
}

# Not of virtual tables, whose module this client may lack; what they hold is in tables of their own.
count_rows() {
    sqlite3 "$1" "SELECT 'SELECT ' || quote(name) || ', count(*) FROM \"' || replace(name, '\"', '\"\"') || '\";'
        FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND sql NOT LIKE 'CREATE VIRTUAL%'" > "$work/queries" &&
        sqlite3 "$1" < "$work/queries" || fail "the rows cannot be counted"
}

restore() {
    found
    need sqlite3 gzip
    gzip -t "$file" 2> /dev/null || fail "the backup $CAPMIG_ID is broken"
    if [ ! -e "$file.failed" ] && [ -f "$database" ]; then
        if copy_to "$file.failed.part"; then
            mv "$file.failed.part" "$file.failed"
        else
            rm -f "$file.failed.part"
            say "the failed state could not be kept: $(words "$work/errors")"
        fi
    fi
    fresh=$database.capmig
    rm -f "$fresh"
    gzip -dc "$file" > "$fresh" 2> "$work/errors" || { rm -f "$fresh"; fail "the backup cannot be unpacked: $(words "$work/errors")"; }
    like=$database
    [ -e "$like" ] || like=${database%/*}
    chown "$(stat -c '%u:%g' "$like")" "$fresh"
    [ ! -f "$database" ] || chmod "$(stat -c '%a' "$database")" "$fresh"
    # A log that belongs to the former file must not be applied to this one.
    rm -f "$database-wal" "$database-shm" "$database-journal"
    flush "$fresh"
    mv "$fresh" "$database"
    flush "${database%/*}"
    tell "restored=$CAPMIG_ID method=rename seconds=$(seconds)"
}

"$1"
