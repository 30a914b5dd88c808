"""MongoDB's programs as far as the script uses them, with a file for the server: no registry here has the real one.

What they take and refuse is written down from the manuals of the Database Tools (100.9) and of mongosh, and from the
archive's specification. They are strict: an option that is not known, a login in an argument and a file that others may
read are refused.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

# The server's file: {"login": "user:password@authSource", "sharded": …, "privileges": […] or null without access
# control, "databases": {name: {collection: {"options": …, "documents": […]}}}}
TOOLS = r"""#!{python}
import gzip, json, os, re, stat, sys
from urllib.parse import parse_qs, unquote

name = os.path.basename(sys.argv[0])
KNOWN = {
    "mongodump": {"--config", "--db", "--gzip", "--archive"},
    "mongorestore": {
        "--config", "--gzip", "--archive",
        "--drop", "--maintainInsertionOrder", "--stopOnError", "--bypassDocumentValidation",
    },
}[name]
MAGIC, END = bytes.fromhex("6de29981"), b"\xff" * 4

def fail(words):
    print(words, file=sys.stderr)
    sys.exit(1)

if sys.argv[1:] == ["--help"]:
    print("--config=<filename>  path to a configuration file" if not os.environ.get("OLD_TOOLS") else "--uri=<uri>")
    sys.exit(0)
given = dict((word.partition("=")[0], word.partition("=")[2]) for word in sys.argv[1:])
if set(given) - KNOWN:
    fail(f"error parsing command line options: unknown option {sorted(set(given) - KNOWN)}")
if stat.S_IMODE(os.stat(given["--config"]).st_mode) != 0o600:
    fail("others may read the configuration file")
uri = re.fullmatch(r"uri: '([^']*)'\n", open(given["--config"]).read())[1]
parts = re.fullmatch(r"mongodb://(?:([^@/]*)@)?([^/]+)/(?:\?(.*))?", uri)
if parts is None:
    fail("error parsing uri")
server = json.load(open(os.environ["SERVER"]))
source = parse_qs(parts[3] or "").get("authSource", ["admin"])[0]
if server["login"] and f"{unquote(parts[1] or '')}@{source}" != server["login"]:
    fail("can't create session: Authentication failed.")
if name == "mongodump":
    content = server["databases"].get(given["--db"], {})
    body = json.dumps({given["--db"]: content}).encode()
    with gzip.open(given["--archive"], "wb") as archive:
        archive.write(MAGIC + body[: len(body) // 2])
        if os.environ.get("DIES"):
            fail("connection reset by peer")
        archive.write(body[len(body) // 2 :] + END)
else:
    body = gzip.open(given["--archive"]).read()
    assert body.startswith(MAGIC) and body.endswith(END)
    for database, collections in json.loads(body[4:-4]).items():
        there = server["databases"].setdefault(database, {})
        for collection, content in collections.items():
            if collection in there and "--drop" not in given:
                fail("duplicate key error")
            if content["options"].get("validator") and "--bypassDocumentValidation" not in given:
                fail("Document failed validation")
            there[collection] = content
            if os.environ.get("DIES"):
                break
        with open(os.environ["SERVER"] + ".new", "w") as file:
            json.dump(server, file)
        os.replace(os.environ["SERVER"] + ".new", os.environ["SERVER"])
    if os.environ.get("DIES"):
        fail("connection reset by peer")
"""

SHELL = r"""#!/usr/bin/env node
const fs = require('fs'), path = require('path'), vm = require('vm');
const legacy = path.basename(process.argv[1]) === 'mongo';
const [nodb, quiet, norc, file, ...more] = process.argv.slice(2);
if (nodb !== '--nodb' || quiet !== '--quiet' || norc !== '--norc' || !/\.js$/.test(file) || more.length) {
  throw new Error('unknown option');
}
if ((fs.statSync(file).mode & 0o777) !== 0o600) throw new Error('others may read the program');
const place = process.env.SERVER;
const read = () => JSON.parse(fs.readFileSync(place));
const write = (server) => {
  fs.writeFileSync(place + '.new', JSON.stringify(server));
  fs.renameSync(place + '.new', place);
};
function database(name) {
  const content = () => read().databases[name] || {};
  const found = {
    getName: () => name,
    getSiblingDB: database,
    version: () => '7.0.12',
    stats: () => ({ dataSize: JSON.stringify(content()).length }),
    getCollectionInfos: (filter) => Object.entries(content())
      .filter(([each]) => !filter || each === filter.name).map(([each, its]) => ({ name: each, options: its.options })),
    getCollection: (each) => ({
      drop: () => { const server = read(); delete server.databases[name][each]; write(server); return true; },
      deleteMany: () => { const server = read(); server.databases[name][each].documents = []; write(server); },
    }),
    runCommand: (command) => {
      if (!command.connectionStatus) throw new Error('unknown command');
      const privileges = read().privileges;
      return { ok: 1, authInfo: privileges ? { authenticatedUsers: [{}], authenticatedUserPrivileges: privileges }
        : { authenticatedUsers: [], authenticatedUserPrivileges: [] } };
    },
  };
  found[legacy ? 'isMaster' : 'hello'] = () => (read().sharded ? { msg: 'isdbgrid' } : {});
  return found;
}
function connect(uri) {
  const parts = /^mongodb:\/\/(?:([^@/]*)@)?([^/]+)\/(?:\?(.*))?$/.exec(uri);
  const source = new URLSearchParams(parts[3] || '').get('authSource') || 'admin';
  const server = read();
  if (server.login && `${decodeURIComponent(parts[1] || '')}@${source}` !== server.login) {
    throw new Error('Authentication failed.');
  }
  return database('test');
}
try {
  vm.runInNewContext(fs.readFileSync(file, 'utf8'), { connect, print: (text) => console.log(text) });
} catch (error) {
  console.error('MongoServerError: ' + error.message);
  process.exit(1);
}
"""


def install(folder: Path, *, shell: str = "mongosh") -> Path:
    """The programs in a new folder, for a PATH."""
    folder.mkdir()
    for name in ("mongodump", "mongorestore"):
        (folder / name).write_text(TOOLS.replace("{python}", sys.executable))
    (folder / shell).write_text(SHELL)
    for program in folder.iterdir():
        program.chmod(0o755)
    return folder


def read(server: Path) -> dict[str, dict[str, object]]:
    """What the server holds, by the names of its databases."""
    return dict(json.loads(server.read_text())["databases"])
