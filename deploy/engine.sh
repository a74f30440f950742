# SPDX-License-Identifier: MIT
#
# A Docker engine for image.sh and compose.sh: the one that answers, or one of our own that leaves no
# trace. Sourced by bash with `set -euo pipefail`, in the project's root.
#
#   engine_find              true when an engine answers; then everything below uses that one
#   engine_packages          docker.io, docker-compose, mmdebstrap: installs what is missing
#   engine_start build|run   our own dockerd, started here, ended by `engine_stop` by its pid
#   engine_enter COMMAND     run COMMAND where containers' addresses and published ports are
#   engine_base              $BASE exists afterwards: pulled, or made by mmdebstrap
#
# Our own dockerd lives twice, for building and running want opposite things. Building needs the way
# to Debian's archive and nothing of Docker's network: no bridge, no packet filter, RUN steps use the
# machine's own network. Running needs bridges, addresses and packet filter rules, which go into a
# network namespace of its own, together with the mounts: when dockerd ends, all of them are gone and
# the machine is as it was. Nothing in there can reach the world outside.
#
# Images and layers stay in build/docker, so the second time is faster. Unix socket paths are short
# ones under /tmp, because a checkout's path may be longer than they can be.

ENGINE_DATA=$PWD/build/docker
ENGINE_PID= ENGINE_RUN= ENGINE_OWN=
ENGINE_BUILD=() # more arguments of `docker build`
BASE=${BASE:-debian:trixie-slim}
DOCKER=docker

say() { printf '\n== %s\n' "$*"; }

docker() { command "$DOCKER" "$@"; }

engine_find() { # an answer within ten seconds, or there is none
    command -v "$DOCKER" >/dev/null && timeout 10 "$DOCKER" version >/dev/null 2>&1
}

# ---- packages ------------------------------------------------------------------------------------

engine_missing() {
    local package
    for package; do
        case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in
            installed) ;;
            *) echo "$package" ;;
        esac
    done
}

engine_packages() {
    local wanted packages="docker.io docker-compose iptables iproute2 mmdebstrap curl"
    [ -e /etc/debian_version ] || { echo "no engine answers, and this is not Debian" >&2; return 1; }
    # Since Debian 13 the client is a package of its own.
    case $(. /etc/os-release && echo "${VERSION_ID:-0}") in
        1[0-2]) ;;
        *) packages="$packages docker-cli" ;;
    esac
    wanted=$(engine_missing $packages)
    [ -n "$wanted" ] || return 0
    say "installing" $wanted
    engine_install $wanted
}

# No service may start by itself; what is put in the way is taken away again.
engine_install() (
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive LC_ALL=C
    options=(-q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0
        -o Dpkg::Options::=--force-confold)
    install=(apt-get "${options[@]}" install --no-install-recommends "$@")
    "${install[@]}" || { apt-get "${options[@]}" update && "${install[@]}"; }
)

# ---- our own dockerd -----------------------------------------------------------------------------

engine_start() { # build | run
    local mode=$1 options=() spaces=(--mount) prepare=:
    [ "$(id -u)" = 0 ] || { echo "starting an engine takes root" >&2; return 1; }
    # The machine may have another client first in PATH, without an engine that belongs to it.
    [ ! -x /usr/bin/docker ] || DOCKER=/usr/bin/docker
    [ -n "$ENGINE_RUN" ] || ENGINE_RUN=$(mktemp -d /tmp/cp-docker-XXXXXX)
    mkdir -p "$ENGINE_DATA"
    options=(--data-root "$ENGINE_DATA/data" --exec-root "$ENGINE_RUN/exec" --log-level warn
        --pidfile "$ENGINE_RUN/pid" --host "unix://$ENGINE_RUN/docker.sock")
    ENGINE_BUILD=()
    if [ "$mode" = build ]; then
        options+=(--bridge none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false)
        ENGINE_BUILD=(--network host)
    else
        spaces+=(--net)
        prepare='ip link set lo up'
    fi
    # A group of its own: Ctrl-C is for this script, which then ends dockerd in order. Should the
    # script be killed, dockerd hears SIGTERM.
    setsid setpriv --pdeathsig TERM unshare "${spaces[@]}" \
        sh -c "$prepare"' && exec "$@"' sh dockerd "${options[@]}" \
        >>"$ENGINE_RUN/log" 2>&1 </dev/null 9>&- &
    ENGINE_PID=$!
    ENGINE_OWN=1
    export DOCKER_HOST=unix://$ENGINE_RUN/docker.sock
    unset DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CERT_PATH
    local i
    for ((i = 0; i < 120; i++)); do
        if ! kill -0 "$ENGINE_PID" 2>/dev/null; then break; fi
        if [ -S "$ENGINE_RUN/docker.sock" ] && docker info >/dev/null 2>&1; then return 0; fi
        sleep 0.25
    done
    echo "dockerd does not start; its last words:" >&2
    tail -n 15 "$ENGINE_RUN/log" >&2
    engine_stop
    return 1
}

engine_stop() {
    local i
    [ -n "$ENGINE_PID" ] || return 0
    kill -TERM "$ENGINE_PID" 2>/dev/null || true
    for ((i = 0; i < 120; i++)); do # dockerd gives containers ten seconds
        if ! kill -0 "$ENGINE_PID" 2>/dev/null; then break; fi
        sleep 0.25
    done
    if kill -0 "$ENGINE_PID" 2>/dev/null; then
        echo "dockerd (pid $ENGINE_PID) did not end within 30 s: killed" >&2
        kill -KILL "$ENGINE_PID" 2>/dev/null || true
    fi
    wait "$ENGINE_PID" 2>/dev/null || true
    rmdir /sys/fs/cgroup/docker /sys/fs/cgroup/*/docker 2>/dev/null || true
    ENGINE_PID=
}

# For a trap on EXIT.
engine_close() {
    engine_stop
    [ -z "$ENGINE_RUN" ] || rm -rf --one-file-system "$ENGINE_RUN"
    ENGINE_RUN=
}

engine_enter() {
    if [ -n "$ENGINE_OWN" ]; then
        nsenter --target "$ENGINE_PID" --net -- "$@"
    else
        "$@"
    fi
}

# ---- images --------------------------------------------------------------------------------------

engine_has() { docker image inspect "$1" >/dev/null 2>&1; }

# Registries are asked only by engines that were there before us (or with CARPOOL_PULL=1): where one
# has to be started, nothing but Debian's archive is expected to be in reach.
engine_pull() {
    [ -z "$ENGINE_OWN" ] || [ "${CARPOOL_PULL:-}" = 1 ] || return 1
    timeout 300 "$DOCKER" pull -q "$1"
}

engine_base() {
    engine_has "$BASE" && return 0
    engine_pull "$BASE" && return 0
    say "making $BASE by mmdebstrap"
    command -v mmdebstrap >/dev/null || engine_install mmdebstrap
    engine_debootstrap | docker import --change 'CMD ["bash"]' - "$BASE"
}

# Minimal and slim, from where this machine's apt takes its own packages, with apt's way to get
# there (proxy, clock) inside, so that RUN steps find the archive, too.
engine_debootstrap() {
    local archive codename option options=()
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    archive=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' \
        'Created-By: Packages' | awk -v codename="$codename" \
        '$2 == codename && $3 == "main" && !found { print $1; found = 1 }')
    [ -n "$archive" ] || { echo "apt has no source for the main component of $codename" >&2; return 1; }
    while read -r option; do
        options+=(--aptopt="$option")
    done < <(apt-config dump Acquire | grep -E '^Acquire::(Check-|[a-z]+::Proxy )')
    mmdebstrap --quiet --variant=minbase "${options[@]}" \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        trixie - "deb $archive trixie main"
}

# The first stage has a name, too, so that what earlier builds have left behind can be told from it
# and thrown away; in somebody else's engine nothing is.
engine_carpool() { # tag: the project's own image
    docker build "${ENGINE_BUILD[@]}" --build-arg "BASE=$BASE" --target build -t "${1%%:*}-build" . &&
        docker build "${ENGINE_BUILD[@]}" --build-arg "BASE=$BASE" -t "$1" .
}

engine_tidy() {
    [ -z "$ENGINE_OWN" ] || docker system prune -f >/dev/null
}
