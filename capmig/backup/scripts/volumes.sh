# An app's volumes as one tar, with GNU's or BusyBox's. CAPMIG_VOLUMES are the names that they have below CAPMIG_INSIDE.
inside=$CAPMIG_INSIDE

# A socket or a device that is mounted into the app holds nothing to keep.
volumes=
for name in $CAPMIG_VOLUMES; do
    [ ! -d "$inside/$name" ] || volumes="$volumes $name"
done

find_tar() {
    need tar gzip find du awk sha256sum
    case $(tar --version 2>&1) in
        *GNU*) kind=GNU ;;
        *[Bb]usy[Bb]ox*) kind=BusyBox ;;
        *) fail "the image's tar is neither GNU's nor BusyBox's: give one that has such a tar as backup-image" ;;
    esac
}

check() {
    find_tar
    for name in $CAPMIG_VOLUMES; do
        [ ! -f "$inside/$name" ] || fail "the mount $name is a single file, which cannot be restored: mount its folder"
    done
    [ -n "$volumes" ] || fail "none of the app's mounts is a folder"
    inner=$(awk -v below="$inside/" 'index($5, below) == 1 && substr($5, length(below) + 1) ~ "/" { print $5 }' /proc/self/mountinfo)
    [ -z "$inner" ] || fail "another file system is mounted within a volume, which a restore could not empty: $inner"
    has_space "$(size)"
    tell "method=unpack tar=$kind"
}

size() { (cd "$inside" && du -sk $volumes 2> /dev/null || true) | awk '{ sum += $1 } END { printf "%.0f\n", sum * 1024 }'; }
# What is in volumes is often packed already: as much space as it takes.
has_space() {
    mkdir -p "$folder"
    [ "$(free)" -gt "$1" ] || fail "too little space for a backup: $(free) bytes are free on this node, and the volumes take $1"
}

# As many lines as names that a tar of them has, whatever these contain.
members() { (cd "$inside" && find $volumes ! -type s) | wc -l | tr -d ' '; }
# $1: the archive.
listing() {
    literal=
    [ "$kind" != GNU ] || literal=--quoting-style=literal
    gzip -dc "$1" | tar -t -f - ${literal:+"$literal"}
}
# Reads all of $1, and leaves in a file how many members it has.
count() {
    gzip -t "$1" || return 1
    rm -f "$work/unread"
    { listing "$1" || : > "$work/unread"; } | wc -l | tr -d ' ' > "$work/count"
    [ ! -e "$work/unread" ]
}

pack() {
    set --
    [ "$kind" != GNU ] || set -- --format=posix --sparse --acls --xattrs --xattrs-include='*' --xattrs-exclude=security.selinux
    tar -c --numeric-owner "$@" -C "$inside" -f - $volumes
}
# A pipe hides how its first program ended.
packed() { { pack || say "$?" > "$work/broken"; } | gzip -1 > "$1"; }

# GNU tar ends with 1 when files change under it, as they may while the app runs on.
pack_to() {
    rm -f "$work/broken"
    tick "$1" packing
    status=0
    run packed "$1" 2> "$work/errors" || status=$?
    untick
    [ "$status" = 0 ] || return 1
    [ -e "$work/broken" ] || return 0
    [ "$(cat "$work/broken")" = 1 ] && [ "$kind" = GNU ] && app_runs && say "changed while it was read: $(words "$work/errors")"
}
app_runs() { [ "${CAPMIG_ATTEMPT:-0}" = 0 ]; }

dump() {
    find_tar
    has_space "$(size)"
    mkdir -p "${file%/*}"
    rm -f "${file%/*}"/*.part
    there=$(members)
    pack_to "$file.part" || { rm -f "$file.part"; fail "the backup failed: $(words "$work/errors")"; }
    sum "$file.part"
    run count "$file.part" 2> "$work/errors" || { rm -f "$file.part"; fail "the backup cannot be read back: $(words "$work/errors")"; }
    counted=$(cat "$work/count")
    [ "$counted" = "$there" ] || app_runs || { rm -f "$file.part"; fail "$there files and folders were there, and the backup has $counted: something else writes into the volumes"; }
    say "$counted files and folders"
    keep "$file.part"
}

restore() {
    found
    find_tar
    readable
    begin_restore pack_to
    run empty 2> "$work/errors" || fail "the volumes cannot be emptied: $(words "$work/errors")"
    rm -f "$work/broken"
    run unpack 2> "$work/errors" && [ ! -e "$work/broken" ] && [ "$(members)" = "$counted" ] ||
        fail "unpacking broke off half-way, and has to be repeated: $(words "$work/errors")"
    for name in $volumes; do
        sync -f "$inside/$name" 2> /dev/null || sync
    done
    rm -f "$file.begun.part"
    tell "restored=$CAPMIG_ID method=unpack seconds=$(seconds)"
}

# Nothing is touched for a backup that could not be unpacked here.
readable() {
    [ "$kind" = GNU ] || [ "$(gzip -dc "$file" 2> /dev/null | dd bs=1 skip=156 count=1 2> /dev/null)" != x ] ||
        fail "the backup was made by GNU tar, and this image has BusyBox's: give one with GNU tar as backup-image"
    run count "$file" 2> /dev/null || fail "the backup $CAPMIG_ID is broken"
    counted=$(cat "$work/count")
    saved=$(listing "$file" 2> /dev/null | sed -n 's/^\([0-9][0-9]*-[A-Za-z0-9._-]*\)\/$/\1/p' | sort)
    mounted=$(for name in $volumes; do say "$name"; done | sort)
    [ "$saved" = "$mounted" ] || fail "the backup has the volumes" $saved "and the app has" $mounted
}

empty() {
    for name in $volumes; do
        cd "$inside/$name"
        find . ! -name . -prune -exec rm -rf {} +
    done
}

unpack() {
    set --
    [ "$kind" != GNU ] || set -- --same-owner --acls --xattrs --xattrs-include='*' --xattrs-exclude=security.selinux
    # A tar that has seen the end of the archive may leave the rest unread (141).
    { gzip -dc "$file" || [ "$?" = 141 ] || : > "$work/broken"; } | tar -x -p --numeric-owner "$@" -C "$inside" -f -
}

"$1"
