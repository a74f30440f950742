#!/bin/bash
# SPDX-License-Identifier: MIT
#
# ./dev compose [--if-possible] [pytest arguments]: the image among containers.
#
#   1. the stack of compose.yaml: an application queries through carpool, /ready answers from outside,
#      faults of servers, `docker stop` while a transaction runs, plain `docker run`
#   2. the flow tests with servers in containers (compose.flow.yaml), harmed by fault.sh
#
# With --if-possible it says why and ends well where no engine answers or can be started. Variables:
# COMPOSE (the command, default `docker compose` or `docker-compose`), CARPOOL_IMAGES (`official` or
# `debian`), CARPOOL_BIN (the daemon of the flow tests), CARPOOL_FLOW_NET (three bytes of a free
# network), CARPOOL_PULL=1 (let an engine of our own ask registries).

set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
. deploy/engine.sh

WORK=$PWD/build/compose
STACK=carpool-stack
export CARPOOL_FLOW_PROJECT=carpool-flow CARPOOL_FLOW_NET=${CARPOOL_FLOW_NET:-10.77.77}
export CARPOOL_FLOW_HTTP=$WORK/http DOCKER COMPOSE_HTTP_TIMEOUT=120
unset COMPOSE_FILE COMPOSE_PROJECT_NAME COMPOSE_PROFILES CARPOOL_IMAGE CARPOOL_ADMIN_PORT APP_IMAGE
export POSTGRES_PASSWORD=ticket-1 REDIS_PASSWORD=ticket-2
passed=0 failed=0

# ---- engine and images ---------------------------------------------------------------------------

give_up() { # reason
    if [ -n "$if_possible" ]; then
        printf 'compose: skipped, %s\n' "$1"
        exit 0
    fi
    printf 'compose: %s\n' "$1" >&2
    exit 1
}

find_engine() {
    if engine_find; then
        images=${CARPOOL_IMAGES:-official}
        return
    fi
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || give_up "no Docker engine answers, and starting one takes root"
        exec sudo --preserve-env=CARPOOL_BIN,CARPOOL_IMAGES,CARPOOL_FLOW_NET,CARPOOL_PULL,COMPOSE -- \
            bash "$0" ${if_possible:+--if-possible} "$@"
    fi
    images=${CARPOOL_IMAGES:-debian}
    engine_packages || give_up "no Docker engine answers, and one cannot be installed"
    engine_start build || give_up "no Docker engine answers, and dockerd does not start here"
}

find_compose() {
    if [ -n "${COMPOSE:-}" ]; then
        compose_command=($COMPOSE)
    elif docker compose version >/dev/null 2>&1; then
        compose_command=("$DOCKER" compose)
    elif command -v docker-compose >/dev/null; then
        compose_command=(docker-compose)
    else
        give_up "there is neither docker compose nor docker-compose"
    fi
    "${compose_command[@]}" version --short
}

# build_images: side by side; one that fails shows its output
build_images() {
    local target targets=(app) jobs=() name
    if [ "$images" = debian ]; then
        targets+=(postgres redis http)
        export POSTGRES_IMAGE=carpool-postgres:debian REDIS_IMAGE=carpool-redis:debian
        export HTTP_IMAGE=carpool-http:debian
    fi
    engine_base
    say "building images"
    engine_carpool carpool:dev >"$WORK/image-carpool.log" 2>&1 &
    jobs+=("$! carpool")
    (for target in "${targets[@]}"; do
        docker build "${ENGINE_BUILD[@]}" --build-arg "BASE=$BASE" --target "$target" -t \
            "carpool-$target:$([ "$target" = app ] && echo dev || echo debian)" deploy/images
    done) >"$WORK/image-servers.log" 2>&1 &
    jobs+=("$! servers")
    for name in "${jobs[@]}"; do
        wait "${name% *}" || { tail -n 40 "$WORK/image-${name#* }.log" >&2 && return 1; }
    done
}

compose() { # project arguments...
    local project=$1 files=(-f deploy/compose.yaml)
    shift
    if [ "$project" = "$CARPOOL_FLOW_PROJECT" ]; then
        files=(-f deploy/compose.flow.yaml)
    elif [ "$images" = debian ]; then
        files+=(-f deploy/compose.debian.yaml)
    fi
    timeout 300 "${compose_command[@]}" -p "$project" "${files[@]}" "$@"
}

tear_down() {
    local project
    [ -n "${compose_command:-}" ] && [ -n "${DOCKER_HOST:-}" ] || [ -z "$ENGINE_OWN" ] || return 0
    for project in "$STACK" "$CARPOOL_FLOW_PROJECT"; do
        compose "$project" down -v -t 3 --remove-orphans >>"$WORK/down.log" 2>&1 || true
    done
}

finish() {
    local status=$?
    trap - EXIT INT TERM
    set +e
    [ -z "${up:-}" ] || { say "taking everything down" && tear_down; }
    engine_close
    exit "$status"
}

# ---- checks of the stack -------------------------------------------------------------------------

check() { # what command...
    local what=$1 begin=$SECONDS log=$WORK/check.log
    shift
    if "$@" >"$log" 2>&1; then
        passed=$((passed + 1))
        printf 'ok      %s (%d s)\n' "$what" $((SECONDS - begin))
    else
        failed=$((failed + 1))
        printf 'FAILED  %s (%d s)\n' "$what" $((SECONDS - begin))
        sed 's/^/        /' "$log" | tail -n 30
    fi
}

until_well() { # seconds command...: until it succeeds
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.3
    done
}

container() { compose "$STACK" ps -q "$1"; }
health() { docker inspect -f '{{.State.Health.Status}}' "$1"; }
is_healthy() { [ "$(health "$1")" = healthy ]; }
app() { # command...: in the application's place
    docker run --rm --network "${STACK}_front" "${app_environment[@]}" carpool-app:dev "$@"
}
app_environment=(-e "DATABASE_URL=postgres://shop:$POSTGRES_PASSWORD@carpool:6432/orders"
    -e "REDIS_URL=redis://default:$REDIS_PASSWORD@carpool:6380/0" -e HTTP_URL=http://carpool:8081)

check_app() {
    local out
    out=$(compose "$STACK" run --rm -T app) || return 1
    printf '%s\n' "$out"
    grep -q '^postgres *hello shop' <<<"$out" && grep -q '^redis *hello again' <<<"$out" &&
        grep -q '^http *GET /hello via=.*carpool' <<<"$out"
}

check_apart() { # the application reaches no server by itself
    ! app timeout 5 bash -c 'exec 3<>/dev/tcp/postgres/5432'
}

admin() { # path [status]: asked from outside, through the published port
    local status
    status=$(engine_enter curl -sS --max-time 10 -o "$WORK/answer" -w '%{http_code}' \
        "http://127.0.0.1:9601$1") || return 1
    printf '%s: %s\n' "$1" "$status"
    head -c 500 "$WORK/answer"
    [ "$status" = "${2:-200}" ]
}

check_admin() {
    admin /live && admin /ready && admin /metrics && grep -q '^carpool_' "$WORK/answer" || return 1
    ! admin /pools # private, and there is no token
}

check_confined() {
    [ "$(docker exec "$carpool" id -u)" = 10001 ] || return 1
    [ "$(docker inspect -f '{{.HostConfig.ReadonlyRootfs}}' "$carpool")" = true ] || return 1
    ! docker exec "$carpool" touch /etc/carpool/x
}

check_killed() { # a server dies and comes back: what fails says so, then all is well by itself
    local id
    id=$(container "$1")
    docker kill "$id" && timeout 20 "$DOCKER" wait "$id" && is_healthy "$carpool" || return 1
    ! app timeout 5 ride || return 1
    docker start "$id" && until_well 25 app ride
}

check_frozen() {
    local id
    id=$(container "$1")
    docker pause "$id" || return 1
    ! app timeout 5 ride && is_healthy "$carpool" || return 1
    docker unpause "$id" && until_well 25 app ride
}

check_cut() { # off the network, and back, perhaps with another address
    local id
    id=$(container "$1")
    docker network disconnect -f "${STACK}_back" "$id" || return 1
    ! app timeout 5 ride && is_healthy "$carpool" || return 1
    docker network connect --alias "$1" "${STACK}_back" "$id" && until_well 25 app ride
}

in_transaction() { # a client of the Postgres server sleeps
    local sleeping
    sleeping=$(docker exec "$(container postgres)" psql -U shop -d orders -XAtc \
        "select count(*) from pg_stat_activity where state = 'active' and query like '%pg_sleep%'
         and pid <> pg_backend_pid()") || return 1
    [ "$sleeping" -ge 1 ]
}

check_drain() { # the transaction that runs ends well, then carpool ends with 0, all in ten seconds
    local client begin took
    app psql -X -v ON_ERROR_STOP=1 -d "postgres://shop:$POSTGRES_PASSWORD@carpool:6432/orders" \
        -c "begin" -c "select pg_sleep(3)" -c "commit" -c "\echo done" >"$WORK/transaction" 2>&1 &
    client=$!
    until_well 20 in_transaction || { cat "$WORK/transaction"; return 1; }
    begin=$(date +%s%N)
    docker stop "$carpool" || return 1
    took=$((($(date +%s%N) - begin) / 1000000))
    wait "$client" || { echo "the transaction failed:" && cat "$WORK/transaction" && return 1; }
    cat "$WORK/transaction"
    echo "stopped after $took ms, exit code $(docker inspect -f '{{.State.ExitCode}}' "$carpool")"
    [ "$took" -lt 10000 ] && [ "$(docker inspect -f '{{.State.ExitCode}}' "$carpool")" = 0 ]
}

check_run() { # docker run alone: pools from the environment, read-only, nothing mounted
    local id
    id=$(docker run -d --read-only --network "${STACK}_back" --network-alias carpool \
        -e "CARPOOL_POOLS=postgres://shop:$POSTGRES_PASSWORD@postgres/orders \
            redis://default:$REDIS_PASSWORD@redis http://http" carpool:dev) || return 1
    until_well 30 is_healthy "$id" && docker network connect --alias carpool "${STACK}_front" "$id" &&
        app ride && docker stop "$id" && [ "$(docker inspect -f '{{.State.ExitCode}}' "$id")" = 0 ]
    local status=$?
    [ $status = 0 ] || docker logs "$id"
    docker rm -fv "$id"
    return $status
}

check_stack() {
    say "the stack"
    check "everything starts" compose "$STACK" up -d carpool
    carpool=$(container carpool)
    check "HEALTHCHECK becomes healthy" until_well 30 is_healthy "$carpool"
    check "an application queries through carpool" until_well 15 check_app
    check "the application has no other way" check_apart
    check "/live, /ready, /metrics from outside, and no more" check_admin
    check "unprivileged, read-only" check_confined
    local server servers="postgres redis http"
    [ "$failed" = 0 ] || servers= # what never worked need not be harmed
    for server in $servers; do
        check "$server is killed and comes back" check_killed "$server"
        check "$server freezes and goes on" check_frozen "$server"
        check "$server is cut off and comes back" check_cut "$server"
    done
    check "docker stop waits for a transaction" check_drain
    check "docker run alone" check_run
    if [ "$failed" != 0 ]; then
        say "carpool's log"
        docker logs "$carpool" 2>&1 | tail -n 60
    fi
}

# ---- flow tests ----------------------------------------------------------------------------------

prepare_flow() { # the configuration of the harness' own nginx, for the one in the container
    rm -rf "$CARPOOL_FLOW_HTTP"
    mkdir -p "$CARPOOL_FLOW_HTTP/big"
    PYTHONPATH=tests/flow /usr/bin/python3 -c '
from harness.nginx import CONF
print(CONF.format(folder="/srv/flow", host="0.0.0.0", port=80, keepalive="60s", tls="", limit=""))
' >"$CARPOOL_FLOW_HTTP/nginx.conf"
    compose "$CARPOOL_FLOW_PROJECT" up -d >"$WORK/flow-up.log" 2>&1
}

run_flow() { # pytest arguments
    local report=$WORK/flow.xml net=$CARPOOL_FLOW_NET arg target=tests/flow
    rm -f "$report"
    for arg; do # a path chosen by the caller replaces ours
        case $arg in tests/*) target= ;; esac
    done
    engine_enter env CARPOOL_BIN="$CARPOOL_BIN" CARPOOL_TEST_POSTGRES="$net.11:5432" \
        CARPOOL_TEST_POSTGRES_ADMIN=postgres:postgres CARPOOL_TEST_REDIS="$net.12:6379" \
        CARPOOL_TEST_HTTP="$net.13:80" CARPOOL_TEST_HTTP_FOLDER="$CARPOOL_FLOW_HTTP" \
        CARPOOL_TEST_FAULT="bash $PWD/deploy/fault.sh" PYTHONDONTWRITEBYTECODE=1 \
        /usr/bin/python3 -m pytest -o "cache_dir=$PWD/build/pytest" --junitxml "$report" -q \
        $target "$@" || true
    /usr/bin/python3 - "$report" <<'COUNT'
import sys, xml.etree.ElementTree as tree
suites = list(tree.parse(sys.argv[1]).iter("testsuite"))
count = {k: sum(int(s.get(k, 0)) for s in suites) for k in ("tests", "failures", "errors", "skipped")}
bad = count["failures"] + count["errors"]
print(count["tests"] - bad - count["skipped"], bad, count["skipped"])
COUNT
}

check_flow() {
    local counts
    say "flow tests with servers in containers"
    if ! prepare_flow; then
        cat "$WORK/flow-up.log"
        failed=$((failed + 1))
        return
    fi
    run_flow "$@" | tee "$WORK/flow.log"
    if ! read -r -a counts < <(tail -n 1 "$WORK/flow.log") || ! [[ ${counts[*]} =~ ^[0-9\ ]+$ ]]; then
        counts=(0 1 0)
    fi
    passed=$((passed + counts[0])) failed=$((failed + counts[1])) skipped=${counts[2]}
}

# ---- all of it -----------------------------------------------------------------------------------

if_possible= skipped=0
if [ "${1:-}" = --if-possible ]; then
    if_possible=1
    shift
fi
mkdir -p "$WORK"
exec 9>"$WORK/lock"
flock -n 9 || give_up "another ./dev compose runs in this tree"
trap finish EXIT
trap 'exit 130' INT TERM

find_engine "$@"
find_compose
build_images
if [ -n "$ENGINE_OWN" ]; then # bridges and addresses from here on
    engine_stop
    engine_start run
fi
if [ -z "${CARPOOL_BIN:-}" ]; then
    ./dev build release
    export CARPOOL_BIN=$PWD/build/release/carpool
fi
./dev setup test

up=1
tear_down # what an earlier run may have left
check_stack
compose "$STACK" stop -t 2 >/dev/null 2>&1 || true
check_flow "$@"

say "summary"
printf 'compose: %d passed, %d failed%s\n' "$passed" "$failed" \
    "$([ "$skipped" = 0 ] || echo ", $skipped skipped")"
[ "$failed" = 0 ]
