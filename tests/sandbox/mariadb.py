"""MariaDB in the sandbox: a service that is started when a test first needs it, and then runs on."""

from __future__ import annotations

from dataclasses import dataclass

from tests.sandbox.caprover.store import NETWORK
from tests.sandbox.engine import wait_for
from tests.sandbox.place import Manager

MARIADB_SERVICE = "srv-captain--mariadb"
PASSWORD = "pass-of-mariadb"


@dataclass(frozen=True, kw_only=True)
class MariaDB:
    """The service, whether it runs or not."""

    manager: Manager

    def runs(self) -> bool:
        return MARIADB_SERVICE in self.manager.execute("docker", "service", "ls", "--format={{.Name}}").split()

    def start(self, image: str, node: str) -> None:
        """Start it on this node."""
        command = ["docker", "service", "create", "--quiet", "--detach", f"--name={MARIADB_SERVICE}"]
        command += [f"--network={NETWORK}", "--endpoint-mode=dnsrr", f"--env=MARIADB_ROOT_PASSWORD={PASSWORD}"]
        command += [f"--constraint=node.hostname=={node}"]
        command += ["--mount=type=volume,source=mariadb-data,target=/var/lib/mysql"]
        self.manager.execute(*command, image)
        wait_for("MariaDB", lambda: self.sql("SELECT 1") == [["1"]])

    def sql(self, text: str, *, database: str = "", login: tuple[str, str] = ("root", "")) -> list[list[str]]:
        """Run SQL as root, or with another login; rows of texts. RuntimeError with the client's words if it fails."""
        options = ["--batch", "--skip-column-names", *([f"--database={database}"] if database else [])]
        lines = self._run("mariadb", *options, f"--execute={text}", login=login).splitlines()
        return [line.split("\t") for line in lines]

    def dump(self, database: str) -> str:
        """The whole database as SQL text, and who has which rights in it."""
        options = ("--routines", "--triggers", "--events", "--hex-blob", "--skip-dump-date")
        rights = self.sql(
            "SELECT grantee, '', privilege_type FROM information_schema.schema_privileges "
            f"WHERE table_schema = '{database}' UNION ALL "
            "SELECT grantee, table_name, privilege_type FROM information_schema.table_privileges "
            f"WHERE table_schema = '{database}' ORDER BY 1, 2, 3"
        )
        return "\n".join([self._run("mariadb-dump", *options, "--databases", database), *map(" ".join, rights)])

    def clean(self) -> None:
        """Remove all databases and users that tests have made."""
        own = "('information_schema', 'performance_schema', 'mysql', 'sys')"
        for (name,) in self.sql(f"SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN {own}"):
            self.sql(f"DROP DATABASE {name}")
        for (name,) in self.sql("SELECT user FROM mysql.user WHERE host = '%' AND user <> 'root'"):
            self.sql(f"DROP USER {name}@'%'")

    def _run(self, *command: str, login: tuple[str, str] = ("root", "")) -> str:
        label = f"label=com.docker.swarm.service.name={MARIADB_SERVICE}"
        container = self.manager.execute("docker", "ps", "--quiet", "--filter", label).split()
        if not container:
            raise RuntimeError("MariaDB is not running")
        program, *arguments = command
        user, password = login
        more = [f"--user={user}", "--default-character-set=utf8mb4"]
        return self.manager.execute(
            "docker", "exec", f"--env=MYSQL_PWD={password}", container[0], program, *more, *arguments
        )
