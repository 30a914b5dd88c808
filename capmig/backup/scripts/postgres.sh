# PostgreSQL, with its own client. PGHOST, PGUSER, PGPASSWORD, PGDATABASE … name the database.
database=$PGDATABASE
export PGCONNECT_TIMEOUT="${PGCONNECT_TIMEOUT:-10}" PGAPPNAME=capmig

scratch=$(scratch_of "$database")
maintenance=

sql() { psql -X -q -A -t -v ON_ERROR_STOP=1 -v database="$database" "$@"; }
admin() { PGDATABASE=$maintenance sql -v new="${new:-}" -v old="${old:-}" "$@"; }
exists() { [ -n "$(say "SELECT 1 FROM pg_database WHERE datname = :'name'" | admin -v name="$1")" ]; }

# A database to be connected to while the app's own is renamed.
find_maintenance() {
    for maintenance in postgres template1; do
        [ "$maintenance" = "$database" ] || ! PGDATABASE=$maintenance sql -c 'SELECT 1' > /dev/null 2>&1 || return 0
    done
    maintenance=
}

# Whether a new database can take the place of this one; otherwise it is emptied and filled again in one transaction.
can_swap() {
    [ -n "$maintenance" ] && exists "$database" && [ t = "$(sql <<- 'SQL'
		SELECT rolsuper OR (rolcreatedb AND pg_has_role(datdba, 'USAGE') AND NOT EXISTS (
		    SELECT FROM pg_extension WHERE extname <> 'plpgsql' AND NOT pg_has_role(extowner, 'USAGE')))
		FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()
	SQL
    )" ]
}

check() {
    need psql pg_dump pg_restore sha256sum
    version=$(sql -c 'SHOW server_version_num' 2>&1) || fail "the database cannot be reached with the app's login: $version"
    client=$(pg_dump --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
    [ "$client" -ge $((version / 10000)) ] ||
        fail "pg_dump $client is older than the server, which is PostgreSQL $((version / 10000)): set backup-image to postgres:$((version / 10000))"
    [ f = "$(sql -c 'SELECT pg_is_in_recovery()')" ] || fail "the server is a standby, to which nothing can be restored"
    unreadable=$(sql <<- 'SQL'
		SELECT string_agg(oid::regclass::text, ', ') FROM pg_class
		WHERE relkind IN ('r', 'p', 'm', 'S') AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
		AND relpersistence <> 't' AND NOT starts_with(relnamespace::regnamespace::text, 'pg_')
		AND (NOT has_table_privilege(oid, 'SELECT') OR row_security_active(oid))
	SQL
    )
    [ -z "$unreadable" ] || fail "the app's user may not read everything: $unreadable"
    run pg_dump --schema-only --lock-wait-timeout=30s --file=/dev/null 2> "$work/errors" || fail "pg_dump cannot read the schema: $(words "$work/errors")"
    # What belongs to roles that the user is no member of can be dumped, and not be made again.
    foreign=$(sql <<- 'SQL'
		SELECT string_agg(pg_describe_object(class, id, 0) || ' of ' || owner::regrole, ', ')
		FROM (SELECT 'pg_class'::regclass AS class, oid AS id, relowner AS owner FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
		    UNION ALL SELECT 'pg_proc'::regclass, oid, proowner FROM pg_proc
		    UNION ALL SELECT 'pg_type'::regclass, oid, typowner FROM pg_type WHERE typtype IN ('d', 'e', 'r')
		    UNION ALL SELECT 'pg_largeobject'::regclass, oid, lomowner FROM pg_largeobject_metadata
		    UNION ALL SELECT 'pg_namespace'::regclass, oid, nspowner FROM pg_namespace WHERE nspname !~ '^pg_') AS objects
		WHERE id >= 16384 AND NOT pg_has_role(owner, 'USAGE') AND NOT EXISTS (
		    SELECT FROM pg_depend WHERE classid = class AND objid = id AND (deptype = 'e' OR deptype = 'i' AND refclassid = 'pg_class'::regclass))
	SQL
    )
    [ -z "$foreign" ] || fail "the app's user could not restore what belongs to others: $foreign"
    room "$(size)"
    find_maintenance
    ! verifies || can_swap ||
        fail "backup-verify: restore needs a user who may create databases (ALTER ROLE … CREATEDB), to whom this one and its extensions belong"
    tell "method=$(can_swap && say swap || say in-place) server=$((version / 10000)) client=$client"
}

size() { sql -c 'SELECT pg_database_size(current_database())'; }

dump_to() {
    tick "$1" "dumping"
    status=0
    run pg_dump --format=custom --compress=1 --lock-wait-timeout=60s --file="$1" 2> "$work/errors" || status=$?
    untick
    return "$status"
}

# Dumps into $1 and counts the rows of all tables, by one snapshot: others may be writing.
counted_dump_to() {
    tick "$1" "dumping"
    counting > "$work/queries"
    {
        say 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;'
        say 'SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL statement_timeout = 0;'
        say 'SELECT pg_export_snapshot() AS snapshot \gset'
        say '\setenv CAPMIG_SNAPSHOT :snapshot'
        say '\! pg_dump --snapshot="$CAPMIG_SNAPSHOT" --format=custom --compress=1 --lock-wait-timeout=60s --file="$CAPMIG_TARGET"; echo $? > "$CAPMIG_STATUS"'
        cat "$work/queries"
        say 'COMMIT;'
    } > "$work/program"
    export CAPMIG_TARGET="$1" CAPMIG_STATUS="$work/status"
    status=0
    run sql --output="$work/counts" -f "$work/program" 2> "$work/errors" || status=$?
    untick
    [ "$status" = 0 ] && [ "$(cat "$work/status")" = 0 ]
}

# SQL that says of each table how many rows it has. What an extension has made comes with the extension.
counting() {
    cat <<- 'SQL'
		SET search_path = '';
		SELECT format('SELECT %L, count(*) FROM ONLY %s', oid::regclass, oid::regclass) FROM pg_class
		WHERE relkind = 'r' AND relpersistence <> 't' AND relnamespace <> 'information_schema'::regnamespace
		AND NOT starts_with(relnamespace::regnamespace::text, 'pg_') AND NOT EXISTS (
		    SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')
		\gexec
	SQL
}

# Restores the file $1 into a scratch database, and compares.
try_restore() {
    say "restoring into a scratch database"
    properties "$1"
    new=$scratch
    fill "$1"
    counting > "$work/queries"
    PGDATABASE=$scratch sql --output="$work/restored" -f "$work/queries" 2> "$work/errors" || fail "the scratch database cannot be read: $(words "$work/errors")"
    compare "$work/counts" "$work/restored"
    clear_scratch
}

clear_scratch() { [ -z "$maintenance" ] || ! exists "$scratch" || drop "$scratch" || say "the scratch database $scratch is left: $(words "$work/errors")"; }

dump() {
    needed=$(size) || fail "the database cannot be reached"
    ! verifies || find_maintenance
    room "$needed"
    mkdir -p "${file%/*}"
    rm -f "${file%/*}"/*.part
    if verifies; then how=counted_dump_to; else how=dump_to; fi
    "$how" "$file.part" || { rm -f "$file.part"; fail "pg_dump failed: $(words "$work/errors")"; }
    sum "$file.part"
    # Reading all of it is what shows that it can be read.
    run pg_restore --file=/dev/null "$file.part" 2> "$work/errors" ||
        { rm -f "$file.part"; fail "the dump cannot be read back: $(words "$work/errors")"; }
    unproven=$file.part
    ! verifies || try_restore "$file.part"
    keep "$file.part"
}

restore() {
    found
    need psql pg_dump pg_restore
    key=$(printf '%s' "$database/$CAPMIG_ID/${CAPMIG_ATTEMPT:-}" | cksum | cut -d ' ' -f 1)
    new=capmig_new_$key old=capmig_old_$key
    wait_for_server
    [ -z "$maintenance" ] || reopen
    keep_failed_state
    method=in-place
    if [ -n "$maintenance" ] && { exists "$old" || ! exists "$database" || can_swap; }; then
        swap
    fi
    [ "$method" = swap ] || in_place
    tell "restored=$CAPMIG_ID method=$method seconds=$(seconds)"
}

# The server may be restarting; a restore is not given up for that.
wait_for_server() {
    give_up=$(($(date +%s) + ${CAPMIG_WAIT:-60}))
    while :; do
        find_maintenance
        [ -z "$maintenance" ] || return 0
        words=$(sql -c 'SELECT 1' 2>&1) && return 0
        [ "$(date +%s)" -lt "$give_up" ] || fail "the database cannot be reached with the app's login: $words"
        sleep 1
    done
}

# A restore that was killed just before it swapped has closed the database.
reopen() {
    admin > "$work/out" 2>&1 <<- 'SQL' || true
		SELECT format('ALTER DATABASE %I ALLOW_CONNECTIONS true', datname) FROM pg_database
		WHERE datname = :'database' AND NOT datallowconn \gexec
	SQL
}

# For whoever looks for the mistake; a restore does not depend on it.
keep_failed_state() {
    [ ! -e "$file.failed" ] || return 0
    { [ -z "$maintenance" ] || ! exists "$old"; } || return 0
    say "keeping the failed state as $CAPMIG_ID.failed"
    keep_failed dump_to
}

# The server itself waits 5 s for others to leave before it refuses to rename or drop: few tries are enough.
# Ends every session in the database $1 that this user may end, also that of a migration which is gone.
kick() {
    ${2:-admin} -v name="$1" > /dev/null 2>&1 <<- 'SQL' || true
		SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = :'name' AND pid <> pg_backend_pid() AND pg_has_role(usesysid, 'USAGE')
	SQL
}

drop() {
    tries=0
    while exists "$1"; do
        kick "$1"
        say "DROP DATABASE IF EXISTS :\"name\"" | admin -v name="$1" 2> "$work/errors" && return 0
        tries=$((tries + 1))
        [ "$tries" -lt 3 ] || return 1
        sleep 0.5
    done
}

# What the archive says of the database itself: owner, grants, settings, comment, and the line that creates it.
properties() {
    pg_restore --list --create "$1" | grep -E '^[0-9]+; [0-9]+ [0-9]+ (DATABASE|((ACL|COMMENT|SECURITY LABEL) - DATABASE)) ' > "$work/entries" || true
    pg_restore --create --use-list="$work/entries" --file="$work/properties" "$1"
    sed -n 's/^CREATE DATABASE .* WITH TEMPLATE = template0/CREATE DATABASE :"new" WITH TEMPLATE = template0/p' "$work/properties" > "$work/create"
    sed -i -e '/^CREATE DATABASE /d' -e '/^\\/d' "$work/properties"
}

# Restores into a new database and exchanges the names: whoever connects sees the one or the other, whole. A killed one
# is repeated from the start, except that the exchange itself is done once: the old database under its other name shows it.
swap() {
    properties "$file"
    if ! exists "$old"; then
        fill "$file"
        PGDATABASE=$new sql -c 'ANALYZE' > /dev/null 2>&1 || true
        if ! exchange; then
            say "a new database cannot take its place: restoring in place"
            return
        fi
    fi
    method=swap
    PGDATABASE=$maintenance psql -X -q -f "$work/properties" > /dev/null 2> "$work/errors" || true
    [ ! -s "$work/errors" ] || say "not everything of the database itself could be set: $(words "$work/errors")"
    drop "$old" || say "the failed database is left as $old: $(words "$work/errors")"
}

# Makes the database $new anew from the file $1.
fill() {
    drop "$new" || fail "$new, left by a job that was killed, cannot be removed: $(words "$work/errors")"
    admin -f "$work/create" 2> "$work/errors" || fail "no new database can be made: $(words "$work/errors")"
    run pg_restore --exit-on-error --dbname="$new" "$1" 2> "$work/errors" || {
        words "$work/errors" > "$work/why"
        drop "$new" || true
        fail "pg_restore failed: $(cat "$work/why")"
    }
}

exchange() {
    if ! exists "$database"; then
        say 'ALTER DATABASE :"new" RENAME TO :"database"' | admin
        return
    fi
    tries=0
    while [ "$tries" -lt 3 ]; do
        say 'ALTER DATABASE :"database" ALLOW_CONNECTIONS false' | admin 2> "$work/errors" || break
        kick "$database"
        kick "$new"
        admin 2> "$work/errors" <<- 'SQL' && return 0
			BEGIN;
			ALTER DATABASE :"database" RENAME TO :"old";
			ALTER DATABASE :"new" RENAME TO :"database";
			COMMIT;
		SQL
        tries=$((tries + 1))
        sleep 0.5
    done
    say "the names cannot be exchanged: $(words "$work/errors")"
    reopen
    drop "$new" || true
    return 1
}

# Without the right to make databases: everything that the user owns goes and comes again, in one transaction.
in_place() {
    kick "$database" sql
    # Entries for what the user does not own, and which is therefore still there.
    sql > "$work/foreign" <<- 'SQL'
		SELECT ' no such entry ' UNION ALL
		SELECT ' COMMENT - EXTENSION ' || extname || ' ' FROM pg_extension WHERE NOT pg_has_role(extowner, 'USAGE') UNION ALL
		SELECT unnest(ARRAY[' SCHEMA - ' || nspname || ' ', ' COMMENT - SCHEMA ' || nspname || ' ']) FROM pg_namespace
		WHERE NOT pg_has_role(nspowner, 'USAGE')
	SQL
    pg_restore --list "$file" | grep -v -F -f "$work/foreign" > "$work/list"
    run refill || true
    grep -q '^capmig-committed$' "$work/out" || fail "restoring in place failed, and left the database as it was: $(words "$work/errors")"
    properties "$file"
    sql -c 'ANALYZE' > /dev/null 2>&1 || true
    psql -X -q -f "$work/properties" > /dev/null 2>&1 || true
}

refill() {
    {
        cat <<- 'SQL'
			BEGIN;
			SET LOCAL lock_timeout = '60s';
			SET client_min_messages = error;
			SELECT to_regnamespace('public') IS NOT NULL AS had_public \gset
			DO $$
			DECLARE owner name;
			BEGIN
			    FOR owner IN SELECT rolname FROM pg_roles WHERE pg_has_role(oid, 'USAGE') AND EXISTS (
			        SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = pg_roles.oid
			        AND deptype = 'o' AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database()))
			    LOOP
			        EXECUTE format('DROP OWNED BY %I CASCADE', owner);
			    END LOOP;
			END $$;
			SELECT 'CREATE SCHEMA public' WHERE :'had_public' AND to_regnamespace('public') IS NULL \gexec
		SQL
        # Without its end the transaction is undone.
        pg_restore --use-list="$work/list" --file=- "$file" && printf 'COMMIT;\n\\echo capmig-committed\n'
    } 2> "$work/errors" | sql > "$work/out" 2>> "$work/errors"
}

"$1"
