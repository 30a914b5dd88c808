#!/bin/bash
# Makes what a bare Debian or Ubuntu machine lacks for the tests: system packages, the virtual environment, a Docker engine.
# Safe to repeat, and quick when nothing is missing. Needs root, or sudo.
#
#   setup.sh           everything
#   setup.sh venv      the virtual environment alone
#   setup.sh engine    the system packages and the engine
#   setup.sh stop      stop the engine that this script started
set -euo pipefail

repo=$(cd "$(dirname "$0")/../.." && pwd)
cache=${CAPMIG_SANDBOX_CACHE:-/var/tmp/capmig-sandbox}
engine=$cache/engine
bridge=capmig0

say() { printf '· %s\n' "$*"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

packages() {
    local missing=() program package
    while read -r program package; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$program" > /dev/null || missing+=("$package")
    done <<- 'END'
		dockerd docker.io
		mmdebstrap mmdebstrap
		ssh openssh-client
		sshd openssh-server
		ip iproute2
		iptables iptables
		setsid util-linux
		pg_ctlcluster postgresql
		mariadbd mariadb-server-core
		mariadb-dump mariadb-client
		sqlite3 sqlite3
		age age
		openssl openssl
		npm npm
		busybox busybox-static
		node nodejs
	END
    python3 -c 'import ensurepip' 2> /dev/null || missing+=(python3-venv)
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
    command -v docker > /dev/null || missing+=(docker.io)
    [ ${#missing[@]} = 0 ] && return
    say "installing ${missing[*]}"
    as_root apt-get update -qq
    # Newer releases have the command line client in a package of its own.
    if ! command -v docker > /dev/null && apt-cache show docker-cli > /dev/null 2>&1; then
        missing+=(docker-cli)
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
}

venv() {
    local want
    want=$(cat "$repo/requirements.txt" "$repo/requirements-dev.txt" | sha256sum)
    [ "$(cat "$repo/.venv/.installed" 2> /dev/null)" = "$want" ] && return
    say "installing the development requirements in .venv"
    [ -x "$repo/.venv/bin/python" ] || python3 -m venv "$repo/.venv"
    "$repo/.venv/bin/pip" install -qq --require-hashes -r "$repo/requirements-dev.txt"
    echo "$want" > "$repo/.venv/.installed"
}

answers() { timeout 20 docker "$@" version > /dev/null 2>&1; }

# The process of the engine that this script started; nothing if there is none.
engine_pid() {
    local pid
    pid=$(cat "$engine/pid" 2> /dev/null) || return 0
    if grep -qz "$engine/data" "/proc/$pid/cmdline" 2> /dev/null; then echo "$pid"; fi
}

start_engine() {
    answers -H "unix://$engine/docker.sock" && return
    answers && return
    # One that is only slow to answer is waited for.
    [ -n "$(engine_pid)" ] || launch_engine
    for _ in $(seq 120); do
        answers -H "unix://$engine/docker.sock" && return
        sleep 0.5
    done
    echo "the Docker engine did not start; its log ends with:" >&2
    tail -n 20 "$engine/log" >&2
    return 1
}

launch_engine() {
    say "no Docker engine answers: starting one in $engine"
    mkdir -p "$cache"
    as_root mkdir -p "$engine"
    # A bridge of its own: another engine on this machine may take docker0 away.
    if ! ip link show "$bridge" > /dev/null 2>&1; then
        as_root ip link add name "$bridge" type bridge
        as_root ip address add 10.212.0.1/24 dev "$bridge"
        as_root ip link set "$bridge" up
    fi
    as_root rm -f "$engine/pid"
    as_root setsid --fork bash -c 'exec dockerd "$@" > "$0/log" 2>&1 < /dev/null' "$engine" \
        --data-root "$engine/data" --exec-root "$engine/run" --pidfile "$engine/pid" \
        -H "unix://$engine/docker.sock" --group "$(id -g)" --bridge "$bridge" \
        --default-address-pool base=10.213.0.0/16,size=24 --mtu 1400 --storage-driver overlay2
}

stop_engine() {
    local pid
    pid=$(engine_pid)
    [ -n "$pid" ] || return 0
    say "stopping the Docker engine"
    as_root kill "$pid"
    for _ in $(seq 120); do
        [ -e "/proc/$pid" ] || break
        sleep 0.5
    done
    as_root ip link delete "$bridge" 2> /dev/null || true
}

case ${1:-all} in
    all) packages && venv && start_engine ;;
    venv) venv ;;
    engine) packages && start_engine ;;
    stop) stop_engine ;;
    *) sed -n '2,8p' "$0" >&2 && exit 2 ;;
esac
