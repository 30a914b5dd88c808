# The user's own commands: backup_command writes the backup to its standard output, restore_command reads it. What they
# write to standard error is in the job's output.

check() {
    need gzip awk sha256sum
    for program in "$backup_command_is" "$restore_command_is"; do
        command -v "$program" > /dev/null || fail "the image has no program $program: give one that has it as backup-image"
    done
    mkdir -p "$folder"
    [ "$(free)" -gt 0 ] || fail "no space for a backup is left on this node"
    tell "method=command"
}

# A pipe hides how its first program ended.
packed() { { backup_command || say "$?" > "$work/status"; } | gzip -1 > "$1"; }

dump_to() {
    rm -f "$work/status"
    tick "$1" "backing up"
    status=0
    run packed "$1" || status=$?
    untick
    [ "$status" = 0 ] || { why="the backup cannot be written (exit code $status)"; return 1; }
    [ ! -e "$work/status" ] || { why="backup-command failed (exit code $(cat "$work/status")); its output is above"; return 1; }
    gzip -t "$1" || { why="the backup cannot be read back"; return 1; }
    [ "$(gzip -dc "$1" | head -c 1 | wc -c)" -eq 1 ] || { why="backup-command wrote nothing"; return 1; }
}

dump() {
    mkdir -p "${file%/*}"
    rm -f "${file%/*}"/*.part
    dump_to "$file.part" || { rm -f "$file.part"; fail "$why"; }
    keep "$file.part"
}

restore() {
    found
    gzip -t "$file" || fail "the backup $CAPMIG_ID is broken"
    begin_restore dump_to
    status=0
    run unpacked || status=$?
    [ "$status" = 0 ] || fail "restore-command failed (exit code $status); its output is above"
    [ ! -e "$work/status" ] || fail "the backup could not be read to its end, so that restore-command got only a part"
    rm -f "$file.begun.part"
    tell "restored=$CAPMIG_ID method=command seconds=$(seconds)"
}

# A command that has seen enough may leave the rest unread (141).
unpacked() {
    rm -f "$work/status"
    { gzip -dc "$file" || [ "$?" = 141 ] || : > "$work/status"; } | restore_command
}

"$1"
