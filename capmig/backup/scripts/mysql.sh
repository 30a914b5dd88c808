# MySQL and MariaDB, with their own client. CAPMIG_HOST, CAPMIG_PORT, CAPMIG_USER, CAPMIG_DATABASE and MYSQL_PWD name the
# database, CAPMIG_SSLMODE is as libpq's sslmode, or empty.
database=$CAPMIG_DATABASE
# The name as it stands in SQL, and as a text there.
name=\`$(say "$database" | sed 's/`/``/g')\`
text="'$(say "$database" | sed "s/['\\\\]/\\\\&/g")'"

scratch=$(scratch_of "$database")
client=

find_client() {
    client=mysql dumper=mysqldump
    ! command -v mariadb > /dev/null || client=mariadb
    ! command -v mariadb-dump > /dev/null || dumper=mariadb-dump
    need "$client" "$dumper" gzip sha256sum
    version=$("$client" --version)
    case $version in *MariaDB*) kind=MariaDB ;; *) kind=MySQL ;; esac
    case $kind-${CAPMIG_SSLMODE:-} in
        *-) ssl= ;;
        MySQL-disable) ssl=--ssl-mode=DISABLED ;;
        MySQL-verify-full) ssl=--ssl-mode=VERIFY_IDENTITY ;;
        MySQL-verify-ca) ssl=--ssl-mode=VERIFY_CA ;;
        MySQL-require) ssl=--ssl-mode=REQUIRED ;;
        MySQL-*) ssl=--ssl-mode=PREFERRED ;;
        MariaDB-disable) ssl=--skip-ssl ;;
        MariaDB-verify-*) ssl=--ssl-verify-server-cert ;;
        *) ssl=--ssl ;;
    esac
}

# $1: the program; the rest are its arguments.
connected() {
    program=$1
    shift
    case $CAPMIG_HOST in
        /*) "$program" --no-defaults --socket="$CAPMIG_HOST" --user="$CAPMIG_USER" ${ssl:+"$ssl"} --default-character-set=utf8mb4 "$@" ;;
        *) "$program" --no-defaults --protocol=tcp --host="$CAPMIG_HOST" --port="$CAPMIG_PORT" --user="$CAPMIG_USER" ${ssl:+"$ssl"} --default-character-set=utf8mb4 "$@" ;;
    esac
}
sql() { connected "$client" --batch --skip-column-names --connect-timeout=10 --execute="$1"; }
# More arguments may follow.
dumping() {
    purged=
    [ "$kind" = MariaDB ] || purged=--set-gtid-purged=OFF
    connected "$dumper" --single-transaction --quick --routines --triggers --events --hex-blob --no-tablespaces \
        --skip-dump-date ${purged:+"$purged"} "$@" --databases "$database"
}

check() {
    find_client
    server=$(sql 'SELECT version()' 2>&1) || fail "the database cannot be reached with the app's login: $server"
    theirs=$(number "$server")
    # MySQL's own says `Ver 8.0.36`, MariaDB's `Distrib 10.11.6-MariaDB` or `from 11.4.2-MariaDB`.
    ours=$(number "$(say "$version" | sed -e 's/.*\(Distrib\|from\|Ver\) \([0-9]*\.[0-9]*\).*/\2/')")
    case $server in *MariaDB*) server_kind=MariaDB ;; *) server_kind=MySQL ;; esac
    [ "$kind" = "$server_kind" ] || fail "the client is $kind's and the server is $server_kind $server: set backup-image to its server's image"
    [ "$ours" -ge "$theirs" ] || fail "the client ($version) is older than the server, which is $server: set backup-image to its server's image"
    [ -n "$(sql "SELECT schema_name FROM information_schema.schemata WHERE schema_name = $text")" ] || fail "there is no database $database"
    run dumping --no-data > "$work/schema" 2> "$work/errors" || fail "the schema cannot be read: $(words "$work/errors")"
    # Only an administrator could make these again.
    others=$(sql "
        SELECT concat('view ', table_name, ' of ', definer) FROM information_schema.views WHERE table_schema = $text AND definer <> current_user()
        UNION ALL SELECT concat('trigger ', trigger_name, ' of ', definer) FROM information_schema.triggers WHERE trigger_schema = $text AND definer <> current_user()
        UNION ALL SELECT concat('routine ', routine_name, ' of ', definer) FROM information_schema.routines WHERE routine_schema = $text AND definer <> current_user()
        UNION ALL SELECT concat('event ', event_name, ' of ', definer) FROM information_schema.events WHERE event_schema = $text AND definer <> current_user()")
    [ -z "$others" ] || may_do 'SUPER|SET USER|SET_USER_ID|SET_ANY_DEFINER|ALL PRIVILEGES ON \*' || fail "the app's user could not restore what belongs to others: $others"
    may_do 'ALL PRIVILEGES|DROP' || fail "the app's user may not drop the database, which a restore does"
    may_do 'ALL PRIVILEGES|CREATE' || fail "the app's user may not create the database, which a restore does"
    clear_scratch
    ! verifies || sql "CREATE DATABASE $scratch" 2> "$work/errors" && clear_scratch ||
        fail "backup-verify: restore needs a user who may make a database beside his own (GRANT ALL ON \`capmig\\_verify\\_%\`.* TO …): $(words "$work/errors")"
    room "$(size)"
    tell "method=recreate server=$server"
}

# 10.11.6 → 10011
number() { say "$1" | sed 's/^\([0-9]*\)\.\([0-9]*\).*/\1 \2/' | awk '{ print $1 * 1000 + $2 }'; }
may_do() { sql 'SHOW GRANTS' | grep -Eq "$1"; }
size() { sql "SELECT coalesce(sum(data_length + index_length), 0) FROM information_schema.tables WHERE table_schema = $text"; }

# A pipe hides how its first program ended.
packed() { { dumping || say "$?" > "$work/broken"; } | gzip -1 > "$1"; }

dump_to() {
    rm -f "$work/broken"
    tick "$1" dumping
    status=0
    run packed "$1" 2> "$work/errors" || status=$?
    untick
    [ "$status" = 0 ] && [ ! -e "$work/broken" ]
}

whole() { gzip -t "$1" && [ -n "$(gzip -dc "$1" | tail -n 3 | grep -e '-- Dump completed')" ]; }

# $1: a database; writes into $2 how many rows each of its tables has.
count_rows() {
    connected "$client" --batch --raw --skip-column-names --execute="
        SELECT concat('SELECT ', quote(table_name), ', count(*) FROM \`', replace(table_schema, '\`', '\`\`'), '\`.\`', replace(table_name, '\`', '\`\`'), '\`;')
        FROM information_schema.tables WHERE table_schema = '$(say "$1" | sed "s/['\\\\]/\\\\&/g")' AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')" > "$work/queries" 2> "$work/errors" &&
        connected "$client" --batch --skip-column-names < "$work/queries" > "$2" 2> "$work/errors" || fail "the rows cannot be counted: $(words "$work/errors")"
}

# Restores the file $1 into a scratch database, and compares with the tables that nobody wrote to meanwhile.
try_restore() {
    say "restoring into a scratch database"
    count_rows "$database" "$work/after"
    grep -x -F -f "$work/after" "$work/before" > "$work/counts" || true
    clear_scratch
    run fill_scratch "$1" 2> "$work/errors" || true
    grep -q '^capmig-done$' "$work/out" || fail "the backup cannot be restored into a scratch database: $(words "$work/errors")"
    count_rows "$scratch" "$work/restored"
    compare "$work/counts" "$work/restored"
    clear_scratch
}

# Without events, which would run there; what follows them has no rows.
fill_scratch() {
    {
        say "CREATE DATABASE $scratch;"
        gzip -dc "$1" | LC_ALL=C sed -e '/^-- Dumping events for database/,$d' -e "1,60{/^CREATE DATABASE /d; s/^USE .*;\$/USE $scratch;/;}"
        say "SELECT 'capmig-done';"
    } | connected "$client" --batch --skip-column-names --binary-mode > "$work/out"
}

clear_scratch() { [ -z "$client" ] || sql "DROP DATABASE IF EXISTS $scratch" > /dev/null 2>&1 || true; }

dump() {
    find_client
    needed=$(size) || fail "the database cannot be reached"
    ! verifies || count_rows "$database" "$work/before"
    room "$needed"
    mkdir -p "${file%/*}"
    rm -f "${file%/*}"/*.part
    dump_to "$file.part" || { rm -f "$file.part"; fail "the dump failed: $(words "$work/errors")"; }
    sum "$file.part"
    whole "$file.part" 2> "$work/errors" || { rm -f "$file.part"; fail "the dump cannot be read back: $(words "$work/errors")"; }
    unproven=$file.part
    ! verifies || try_restore "$file.part"
    keep "$file.part"
}

restore() {
    found
    find_client
    whole "$file" 2> /dev/null || fail "the backup $CAPMIG_ID is broken"
    give_up=$(($(date +%s) + ${CAPMIG_WAIT:-60}))
    until answer=$(sql 'SELECT 1' 2>&1); do
        [ "$(date +%s)" -lt "$give_up" ] || fail "the database cannot be reached with the app's login: $answer"
        sleep 1
    done
    # A restore that was killed has left a half: what failed is kept before the first one only.
    [ -e "$file.failed" ] || keep_failed dump_to
    # Sessions of the user's own, also that of a migration which is gone, would keep the tables locked.
    for id in $(sql "SELECT id FROM information_schema.processlist WHERE db = $text AND id <> connection_id()"); do
        sql "KILL $id" 2> /dev/null || true
    done
    run recreate 2> "$work/errors" || true
    grep -q '^capmig-done$' "$work/out" || fail "the restore failed half-way, and has to be repeated: $(words "$work/errors")"
    tell "restored=$CAPMIG_ID method=recreate seconds=$(seconds)"
}

recreate() {
    {
        say "SET SESSION lock_wait_timeout = 60; DROP DATABASE IF EXISTS $name;"
        gzip -dc "$file" && say "SELECT 'capmig-done';"
    } | connected "$client" --batch --skip-column-names --binary-mode > "$work/out"
}

"$1"
