# MongoDB, with its Database Tools and its shell (mongosh, or the older mongo). CAPMIG_URI is where, with the login and
# without a database, all of it percent-encoded; CAPMIG_DATABASE is the database.
database=$CAPMIG_DATABASE
config=$work/config.yml

find_client() {
    need mongodump mongorestore gzip od sha256sum
    shell=mongosh
    command -v mongosh > /dev/null || shell=mongo
    need "$shell"
    mongodump --help 2>&1 | grep -q -e --config ||
        fail "its mongodump is older than 100.3 and takes no login from a file: set backup-image to a newer mongo image"
    # The login is in files that only root may read, and in no argument. The words hold no quote.
    say "uri: '$CAPMIG_URI'" > "$config"
}

# Runs the JavaScript on standard input in the shell, with `db` as the database.
javascript() {
    {
        say "db = connect('$CAPMIG_URI').getSiblingDB('$(say "$database" | sed "s/['\\\\]/\\\\&/g")');"
        cat
    } > "$work/program.js"
    run "$shell" --nodb --quiet --norc "$work/program.js"
}

# Collections and views that belong to the user; `system.` is MongoDB's own.
see() {
    javascript <<- 'END'
		const hello = db.hello ? db.hello() : db.isMaster();
		const theirs = db.getCollectionInfos().filter((each) => !each.name.startsWith('system.'));
		const status = db.runCommand({ connectionStatus: 1, showPrivileges: true }).authInfo;
		const granted = new Set();
		for (const each of status.authenticatedUserPrivileges || []) {
		    const on = each.resource;
		    const here = on.anyResource || ((on.db === db.getName() || on.db === '') && on.collection === '');
		    (here ? each.actions : []).forEach((action) => granted.add(action));
		}
		const needed = ['find', 'insert', 'createCollection', 'createIndex', 'dropCollection'];
		if (theirs.some((each) => each.options && each.options.validator)) needed.push('bypassDocumentValidation');
		const lacking = status.authenticatedUsers.length ? needed.filter((action) => !granted.has(action)) : [];
		print('server=' + db.version());
		print('size=' + Math.ceil(Number(db.stats().dataSize)));
		print('lacking=' + lacking.join(' '));
		print('sharded=' + (hello.msg === 'isdbgrid'));
		print('bypass=' + (!status.authenticatedUsers.length || granted.has('bypassDocumentValidation')));
		print('collections=' + theirs.length);
	END
}
look() { see > "$work/seen" 2> "$work/errors"; }
# $1: one of the names above.
seen() { sed -n "s/^$1=//p" "$work/seen"; }
why_not() { cat "$work/seen" "$work/errors" > "$work/both"; words "$work/both"; }

check() {
    find_client
    look || fail "the database cannot be reached with the app's login: $(why_not)"
    [ "$(seen sharded)" = false ] || fail "the server is a sharded cluster's, whose distribution a dump does not keep"
    lacking=$(seen lacking)
    [ -z "$lacking" ] || fail "the app's user could not restore the database, since he lacks the rights $lacking"
    room "$(seen size)"
    tell "method=recreate server=$(seen server)"
}

dump_to() {
    tick "$1" dumping
    status=0
    run mongodump --config="$config" --db="$database" --gzip --archive="$1" 2> "$work/errors" || status=$?
    untick
    return "$status"
}

# An archive begins with a number of its own, and each part of it, the last one too, ends with four bytes FF.
whole() {
    gzip -t "$1" || return 1
    [ "$(gzip -dc "$1" | head -c 4 | od -A n -t x1 | tr -d ' \n')" = 6de29981 ] &&
        [ "$(gzip -dc "$1" | tail -c 4 | od -A n -t x1 | tr -d ' \n')" = ffffffff ] ||
        { say "it is no whole archive" >&2; return 1; }
}

dump() {
    find_client
    look || fail "the database cannot be reached: $(why_not)"
    room "$(seen size)"
    mkdir -p "${file%/*}"
    rm -f "${file%/*}"/*.part
    dump_to "$file.part" || { rm -f "$file.part"; fail "mongodump failed: $(words "$work/errors")"; }
    sum "$file.part"
    run whole "$file.part" 2> "$work/errors" || { rm -f "$file.part"; fail "the dump cannot be read back: $(words "$work/errors")"; }
    keep "$file.part"
}

restore() {
    found
    find_client
    run whole "$file" 2> /dev/null || fail "the backup $CAPMIG_ID is broken"
    give_up=$(($(date +%s) + ${CAPMIG_WAIT:-60}))
    until look; do
        [ "$(date +%s)" -lt "$give_up" ] || fail "the database cannot be reached with the app's login: $(why_not)"
        sleep 1
    done
    bypass=$(seen bypass)
    begin_restore dump_to
    empty > "$work/seen" 2> "$work/errors" && [ "$(seen left)" = 0 ] || fail "the database cannot be emptied: $(why_not)"
    refill 2> "$work/errors" || fail "mongorestore broke off half-way, and has to be repeated: $(words "$work/errors")"
    rm -f "$file.begun.part"
    tell "restored=$CAPMIG_ID method=recreate seconds=$(seconds)"
}

# Not the database as a whole: an app's user may seldom drop that. No call of the server's is within a function, where
# mongosh might not wait for its answer.
empty() {
    javascript <<- 'END'
		for (const each of db.getCollectionInfos()) {
		    if (!each.name.startsWith('system.')) db.getCollection(each.name).drop();
		    if (each.name === 'system.js') db.getCollection(each.name).deleteMany({});
		}
		print('left=' + db.getCollectionInfos().filter((each) => !each.name.startsWith('system.')).length);
	END
}

# In the documents' own order, which stops at the first one that cannot be written.
refill() {
    set -- --drop --maintainInsertionOrder --stopOnError
    [ "$bypass" != true ] || set -- "$@" --bypassDocumentValidation
    run mongorestore --config="$config" --gzip --archive="$file" "$@"
}

"$1"
