# The beginning of every script here: POSIX sh, as Debian's and Alpine's images have it. $1 is what to do.
# CAPMIG_ID is a backup's path below CAPMIG_FOLDER. What the caller reads are lines `capmig: NAME=VALUE …` and,
# after a failure, `capmig: error=…`. Passwords come in the environment and go nowhere.
set -eu
umask 077
folder=${CAPMIG_FOLDER:-/backups}
file=$folder/${CAPMIG_ID:-}
began=$(date +%s)
work=$(mktemp -d)
child=
ticker=
summing=
unproven=
why=
linger=${CAPMIG_LINGER:-0}

say() { printf '%s\n' "$*"; }
tell() { say "capmig: $*"; }
fail() { tell "error=$(printf '%s' "$*" | tr -s '\n\t ' '   ')"; exit 1; }
seconds() { say $(($(date +%s) - began)); }
bytes() { wc -c < "$1" | tr -d ' '; }
free() { df -Pk "$folder" | awk 'NR == 2 { printf "%.0f\n", $4 * 1024 }'; }
words() { tail -n 5 "$1" | cut -c 1-500; }
# The last words have to be read while the container runs: a prune may take it, and them, as soon as it has ended.
end() {
    [ -z "$ticker" ] || kill -KILL "$ticker" 2> /dev/null || true
    clear_scratch
    rm -rf "$work" "$unproven"
    sleep "$linger" || true
}
# What a script, or one that was killed, has made to try a backup: it goes in every case.
clear_scratch() { :; }
trap end EXIT
trap 'trap "" TERM INT; linger=0; [ -z "$child" ] || kill "$child" 2> /dev/null || true; exit 143' TERM INT

# Runs a program so that a signal is heard at once: for one in the foreground a shell waits first.
run() {
    "$@" < /dev/null &
    child=$!
    status=0
    wait "$child" || status=$?
    child=
    return "$status"
}

# Tells every few seconds how far the file has grown.
tick() {
    (
        before=0
        while sleep 5 > /dev/null 2>&1; do
            now=$(wc -c < "$1" 2> /dev/null || echo 0)
            say "$2: $((now / 1048576)) MiB, $(((now - before) / 5242880)) MiB/s"
            before=$now
        done
    ) &
    ticker=$!
}
# Not TERM: a shell that has just been forked loses it, and would tick for ever.
untick() { kill -KILL "$ticker" 2> /dev/null || true; wait "$ticker" 2> /dev/null || true; ticker=; }

# Has a file, or a folder's names, written to the disk; all of the machine's only where a sync of one is not known.
flush() { sync "$1" 2> /dev/null || sync; }

need() {
    for program in "$@"; do
        command -v "$program" > /dev/null || fail "the image has no program $program: give one that has it as backup-image"
    done
}

# $1: bytes that the database takes, indexes and all. A compressed dump is seldom more than a quarter of that.
room() {
    mkdir -p "$folder"
    [ "$(free)" -gt $(($1 / 4)) ] || fail "too little space for a backup: $(free) bytes are free on this node, and the database takes $1"
}

# Begins to sum up the file $1, while something else reads it.
sum() { sha256sum "$1" > "$work/sum" & summing=$!; }

# Takes the finished file $1 as the backup.
keep() {
    [ -n "$summing" ] || sum "$1"
    unproven=
    wait "$summing" || fail "the backup cannot be summed up"
    flush "$1"
    mv "$1" "$file"
    flush "${file%/*}"
    tell "id=$CAPMIG_ID bytes=$(bytes "$file") sha256=$(cut -d ' ' -f 1 "$work/sum") seconds=$(seconds)"
}

# Whether the backup is to be restored into a scratch database, to see that it can be.
verifies() { [ "${CAPMIG_VERIFY:-}" = restore ]; }
# One name for each app and database, so that one which a killed job left is found again.
scratch_of() { say "capmig_verify_$(printf '%s' "$CAPMIG_APP/$1" | cksum | cut -d ' ' -f 1)"; }

# Compares the lines `TABLE COUNT` in the files $1 and $2: each of the first has to be in the second.
compare() {
    lost=$(grep -v -x -F -f "$2" "$1" | head -n 3 || true)
    [ -z "$lost" ] || fail "the backup was restored into a scratch database, where these tables do not have as many rows: $lost"
    say "restored into a scratch database: $(wc -l < "$1" | tr -d ' ') tables have the rows that they should have"
}

found() { [ -f "$file" ] || fail "this node has no backup $CAPMIG_ID"; }

# Keeps the state that the migration left beside the backup, by `$1 FILE`. That it cannot be kept is no reason not to restore.
keep_failed() {
    if "$1" "$file.failed.part"; then
        mv "$file.failed.part" "$file.failed"
    else
        rm -f "$file.failed.part"
        say "the failed state could not be kept: ${why:-$(words "$work/errors")}"
    fi
}

# Where a restore that was killed leaves a half: that is no failed state to be kept.
begin_restore() {
    [ -e "$file.failed" ] || [ -e "$file.begun.part" ] || keep_failed "$1"
    : > "$file.begun.part"
    flush "${file%/*}"
}

# The backups of an app, oldest first.
backups() { (cd "$folder/$CAPMIG_APP" 2> /dev/null && ls | grep -v -e '\.part$' -e '^copy\.part\.' -e '\.failed$' | sort) || true; }

list() {
    backups | while read -r name; do
        tell "backup=$CAPMIG_APP/$name bytes=$(bytes "$folder/$CAPMIG_APP/$name")"
    done
}

# Removes all but the newest CAPMIG_KEEP.
prune() {
    backups > "$work/all"
    extra=$(($(wc -l < "$work/all") - CAPMIG_KEEP))
    [ "$extra" -gt 0 ] || return 0
    head -n "$extra" "$work/all" | while read -r name; do
        rm -f "$folder/$CAPMIG_APP/$name" "$folder/$CAPMIG_APP/$name.failed"
        say "removed the backup $CAPMIG_APP/$name"
    done
}
