# SQLite, by its own backup command. CAPMIG_DATABASE is the file's path in the app's volume, which is mounted here too.
database=$CAPMIG_DATABASE
# Images of apps in Python have no program sqlite3, and the same in a module.
python='
import sqlite3, sys
what, path, words = sys.argv[1:]
database = sqlite3.connect(path, timeout=60)
if what == "query":
    print(database.execute(words).fetchone()[0])
elif what == "queries":
    for (query,) in database.execute(words).fetchall():
        print(*database.execute(query).fetchone(), sep="|")
else:
    database.backup(sqlite3.connect(words))
'

find_client() {
    need gzip sha256sum
    for client in sqlite3 python3 python; do
        command -v "$client" > /dev/null || continue
        [ "$client" != sqlite3 ] && ! "$client" -c 'import sqlite3; sqlite3.Connection.backup' 2> /dev/null || return 0
    done
    fail "the image has neither the program sqlite3 nor Python: give one that has sqlite3, sh and gzip with backup-image"
}

# Files are opened for writing: what a killed program left half done is undone first, as the app itself would do it.

# The one value that the SQL $2 has in the file $1.
query() {
    case $client in
        sqlite3) sqlite3 -cmd '.timeout 60000' "$1" "$2" ;;
        *) "$client" -c "$python" query "$1" "$2" ;;
    esac
}

# Copies the file $1, also one that is in use, to $2.
copied() {
    case $client in
        # A quote in the path is doubled within quotes.
        sqlite3) sqlite3 "$1" '.timeout 60000' ".backup '$(say "$2" | sed "s/'/''/g")'" ;;
        *) "$client" -c "$python" backup "$1" "$2" ;;
    esac
}

# The file, and what of it is still in its log.
size() {
    log=0
    [ ! -f "$database-wal" ] || log=$(bytes "$database-wal")
    say $(($(bytes "$database") + log))
}

# Beside the packed copy there is for a while an unpacked one, and a second one when it is tried out.
space() {
    needed=$(($(size) * 5 / 4))
    ! verifies || needed=$((needed + $(size)))
    mkdir -p "$folder"
    [ "$(free)" -gt "$needed" ] || fail "too little space for a backup: $(free) bytes are free on this node, and it takes $needed for a while"
}

there() { [ -f "$database" ] || fail "there is no file $database in the app's volumes"; }

check() {
    there
    find_client
    query "$database" 'SELECT count(*) FROM sqlite_master' > /dev/null 2> "$work/errors" || fail "$database cannot be read: $(words "$work/errors")"
    space
    # A restore puts a second file beside it.
    [ "$(df -Pk "${database%/*}" | awk 'NR == 2 { printf "%.0f\n", $4 * 1024 }')" -gt "$(size)" ] ||
        fail "too little space beside $database to restore it"
    tell "method=rename client=$client-$(query "$database" 'SELECT sqlite_version()')"
}

# $1: where the packed copy goes.
copy_to() {
    run copied "$database" "$work/copy" 2> "$work/errors" || return 1
    [ "$(query "$work/copy" 'PRAGMA integrity_check')" = ok ] || { say "the database is damaged" > "$work/errors"; return 1; }
    tick "$1" packing
    status=0
    run pack "$1" 2> "$work/errors" || status=$?
    untick
    return "$status"
}
pack() { gzip -1 -c "$work/copy" > "$1"; }

dump() {
    there
    find_client
    space
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
    [ "$(query "$work/again" 'PRAGMA integrity_check')" = ok ] || fail "the backup is damaged"
    count_rows "$work/copy" > "$work/counts"
    count_rows "$work/again" > "$work/restored"
    compare "$work/counts" "$work/restored"
}

# Not of virtual tables, whose module this client may lack; what they hold is in tables of their own.
count_rows() {
    queries="SELECT 'SELECT ' || quote(name) || ', count(*) FROM \"' || replace(name, '\"', '\"\"') || '\";'
        FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND sql NOT LIKE 'CREATE VIRTUAL%'"
    case $client in
        sqlite3) sqlite3 "$1" "$queries" > "$work/queries" && sqlite3 "$1" < "$work/queries" ;;
        *) "$client" -c "$python" queries "$1" "$queries" ;;
    esac || fail "the rows cannot be counted"
}

restore() {
    found
    find_client
    gzip -t "$file" 2> /dev/null || fail "the backup $CAPMIG_ID is broken"
    [ -e "$file.failed" ] || [ ! -f "$database" ] || keep_failed copy_to
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
