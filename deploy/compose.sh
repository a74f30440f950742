#!/bin/bash
# SPDX-License-Identifier: MIT
#
# ./dev compose [--if-possible] [pytest arguments]: the image among containers. Side by side:
#
#   the stack of compose.yaml   an application queries through carpool, /ready answers from outside,
#                               servers die, freeze and vanish, `docker stop` while a transaction
#                               runs, plain `docker run`
#   the flow tests              with servers of compose.flow.yaml, harmed by fault.sh; in parts, each
#                               with servers of its own; then, by themselves, those that measure
#
# With --if-possible it says why and ends well where no engine answers or can be started. Variables:
#
#   COMPOSE            the command: default `docker compose`, else `docker-compose`
#   CARPOOL_IMAGES     official | debian: default official, debian with an engine of our own
#   CARPOOL_BIN        the daemon of the flow tests: default build/release/carpool
#   CARPOOL_FLOW_PARTS how many parts: default 4
#   CARPOOL_FLOW_NET   two bytes: the networks .1, .2, ... of it are free (default 10.77)
#   CARPOOL_PULL=1     let an engine of our own ask registries, too

set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
. deploy/engine.sh

WORK=$PWD/build/compose
STACK=carpool-stack
FLOW_PARTS=${CARPOOL_FLOW_PARTS:-4}
FLOW_NET=${CARPOOL_FLOW_NET:-10.77}
PYTHON=/usr/bin/python3
VARIABLES=COMPOSE,CARPOOL_IMAGES,CARPOOL_BIN,CARPOOL_FLOW_PARTS,CARPOOL_FLOW_NET,CARPOOL_PULL
export DOCKER COMPOSE_HTTP_TIMEOUT=120
unset COMPOSE_FILE COMPOSE_PROJECT_NAME COMPOSE_PROFILES CARPOOL_IMAGE CARPOOL_ADMIN_PORT APP_IMAGE
export POSTGRES_PASSWORD=ticket-1 REDIS_PASSWORD=ticket-2

compose_command=() # empty until it is known
chosen=            # by the caller: paths of tests
flow_folder=       # what the tests share with the HTTP servers; a short path for Unix sockets
running=()         # process groups of the parts that run
passed=0 failed=0 skipped=0

# ---- engine and images ---------------------------------------------------------------------------

give_up() { # reason
    if [ -n "$if_possible" ]; then
        printf 'compose: skipped: %s\n' "$1"
        exit 0
    fi
    printf 'compose: %s\n' "$1" >&2
    exit 1
}

find_engine() { # this script's arguments
    if engine_find; then
        images=${CARPOOL_IMAGES:-official}
        return
    fi
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || give_up "no Docker engine answers, and starting one takes root"
        exec sudo --preserve-env="$VARIABLES" -- bash "$0" ${if_possible:+--if-possible} "$@"
    fi
    images=${CARPOOL_IMAGES:-debian}
    engine_packages || give_up "no Docker engine answers, and one cannot be installed"
    engine_start build || give_up "no Docker engine answers, and dockerd does not start here"
}

find_compose() {
    if [ -n "${COMPOSE:-}" ]; then
        read -r -a compose_command <<<"$COMPOSE"
    elif docker compose version >/dev/null 2>&1; then
        compose_command=("$DOCKER" compose)
    elif command -v docker-compose >/dev/null; then
        compose_command=(docker-compose)
    else
        give_up "there is neither docker compose nor docker-compose"
    fi
    say "docker $(docker version -f '{{.Server.Version}}')," \
        "compose $("${compose_command[@]}" version --short)"
}

build_images() { # ours and the servers' side by side; one that fails shows its output
    local servers=(app) builds=() one
    if [ "$images" = debian ]; then
        servers+=(postgres redis http)
        export POSTGRES_IMAGE=carpool-postgres:debian REDIS_IMAGE=carpool-redis:debian
        export HTTP_IMAGE=carpool-http:debian
    fi
    engine_base
    say "building images"
    engine_carpool carpool:dev >"$WORK/image-carpool.log" 2>&1 &
    builds+=("$! carpool")
    build_servers "${servers[@]}" >"$WORK/image-servers.log" 2>&1 &
    builds+=("$! servers")
    for one in "${builds[@]}"; do
        wait "${one% *}" || { tail -n 40 "$WORK/image-${one#* }.log" >&2 && return 1; }
    done
    engine_tidy
}

build_servers() { # targets of deploy/images/Dockerfile
    local target tag
    for target; do
        tag=debian
        [ "$target" != app ] || tag=dev
        docker build "${ENGINE_BUILD[@]}" --build-arg "BASE=$BASE" --target "$target" \
            -t "carpool-$target:$tag" deploy/images || return 1
    done
}

compose() { # project arguments...
    local project=$1 files=(-f deploy/compose.yaml)
    shift
    if [ "$project" != "$STACK" ]; then
        files=(-f deploy/compose.flow.yaml)
    elif [ "$images" = debian ]; then
        files+=(-f deploy/compose.debian.yaml)
    fi
    timeout 120 "${compose_command[@]}" -p "$project" "${files[@]}" "$@"
}

tear_down() { # what runs, or what an earlier run has left behind
    local project downs=()
    for project in "$STACK" carpool-flow-{1..9}; do
        [ -n "$(docker ps -aq --filter "label=com.docker.compose.project=$project")" ] || continue
        CARPOOL_FLOW_HTTP=/nonexistent compose "$project" down -v -t 2 --remove-orphans \
            >>"$WORK/down.log" 2>&1 &
        downs+=($!)
    done
    [ ${#downs[@]} = 0 ] || wait "${downs[@]}" || cat "$WORK/down.log"
}

finish() {
    local status=$? group
    trap - EXIT INT TERM
    set +e
    for group in "${running[@]}"; do
        kill -TERM -- "-$group" 2>/dev/null
    done
    [ ${#compose_command[@]} = 0 ] || ! engine_find || tear_down
    engine_close
    [ -z "$flow_folder" ] || rm -rf "$flow_folder"
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
        tail -n 30 "$log" | sed 's/^/        /'
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

is_healthy() { # container id
    [ "$(docker inspect -f '{{with .State.Health}}{{.Status}}{{end}}' "$1")" = healthy ]
}

ended_well() { # container id
    local code
    code=$(docker inspect -f '{{.State.ExitCode}}' "$1")
    echo "exit code $code"
    [ "$code" = 0 ]
}

app() { # command...: in the application's place, by docker run alone
    docker run --rm --network "${STACK}_front" \
        -e "DATABASE_URL=postgres://shop:$POSTGRES_PASSWORD@carpool:6432/orders" \
        -e "REDIS_URL=redis://default:$REDIS_PASSWORD@carpool:6380/0" \
        -e HTTP_URL=http://carpool:8081 carpool-app:dev "$@"
}

check_app() {
    local out
    out=$(compose "$STACK" run --rm -T app) || return 1
    printf '%s\n' "$out"
    grep -q '^postgres *hello shop' <<<"$out" && grep -q '^redis *hello again' <<<"$out" &&
        grep -q '^http *GET /hello via=.*carpool' <<<"$out"
}

check_apart() { # the application reaches no server by itself
    app getent hosts carpool && ! app timeout 2 bash -c 'exec 3<>/dev/tcp/postgres/5432'
}

admin() { # path: asked from outside, through the published port
    local status
    status=$(engine_enter curl -sS --max-time 10 -o "$WORK/answer" -w '%{http_code}' \
        "http://127.0.0.1:9601$1") || return 1
    printf '%s: %s\n' "$1" "$status"
    head -c 500 "$WORK/answer"
    [ "$status" = 200 ]
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

# Harm one server: the application cannot use it (Postgres clients wait, the others hear an error), the
# other two serve on, carpool stays healthy. Then undo the harm: all is well again by itself.
check_harm() { # server harm... -- undo...
    local server=$1 harm=() others=() one
    shift
    while [ "$1" != -- ]; do
        harm+=("$1") && shift
    done
    shift
    for one in postgres redis http; do
        [ "$one" = "$server" ] || others+=("$one")
    done
    "${harm[@]}" || return 1
    ! app timeout 3 ride "$server" && app timeout 10 ride "${others[@]}" && is_healthy "$carpool" ||
        return 1
    "$@" && until_well 25 app timeout 20 ride
}

check_servers() {
    local server id network=${STACK}_back
    for server in postgres redis http; do
        id=$(container "$server")
        check "$server is killed and comes back" check_harm "$server" \
            docker kill "$id" -- docker start "$id"
        check "$server freezes and goes on" check_harm "$server" \
            docker pause "$id" -- docker unpause "$id"
        check "$server is cut off and comes back" check_harm "$server" \
            docker network disconnect -f "$network" "$id" -- \
            docker network connect --alias "$server" "$network" "$id"
    done
}

on_postgres() { # SQL: past carpool, on the server
    docker exec "$(container postgres)" psql -U shop -d orders -XAtc "$1"
}

# Advisory lock 1 is held by nobody but us: who waits for it ends when we say so.
waits() { # a client of the Postgres server waits for the lock
    local waiting
    waiting=$(on_postgres "select count(*) from pg_locks where locktype = 'advisory' and not granted") ||
        return 1
    [ "$waiting" -ge 1 ]
}

is_held() { [ "$(on_postgres "select 1 from pg_locks where locktype = 'advisory' and granted")" = 1 ]; }

hold_lock() { # until let_go, which needs no new process: time is short then
    rm -f "$WORK/holder"
    mkfifo "$WORK/holder"
    docker exec -i "$(container postgres)" psql -U shop -d orders -XAtq <"$WORK/holder" &
    exec 7>"$WORK/holder"
    echo "select pg_advisory_lock(1);" >&7
    until_well 60 is_held
}

let_go() { echo '\q' >&7 && exec 7>&-; }

query() { # SQL...: as the application, through carpool
    local sql commands=()
    for sql; do
        commands+=(-c "$sql")
    done
    app psql -X -v ON_ERROR_STOP=1 -d "postgres://shop:$POSTGRES_PASSWORD@carpool:6432/orders" \
        "${commands[@]}"
}

stop() { # container id: it ends by itself, with 0; after ten seconds the engine kills it
    docker stop "$1" && ended_well "$1"
}

check_drain() { # the transaction that runs may end
    local client stopping status=0
    hold_lock || return 1
    query begin "select pg_advisory_xact_lock_shared(1)" commit >"$WORK/transaction" 2>&1 &
    client=$!
    until_well 60 waits || status=1
    exec 8< <(docker logs -f "$carpool" 2>&1 | grep -m 1 " draining ")
    stop "$carpool" &
    stopping=$!
    read -r -t 30 -u 8 || status=1
    let_go && exec 8<&- || status=1
    wait "$stopping" || status=1
    wait "$client" || status=1
    cat "$WORK/transaction"
    [ $status = 0 ] && grep -q COMMIT "$WORK/transaction"
}

check_deadline() { # container id: a query without an end does not keep carpool
    local client status=0
    hold_lock || return 1
    query "select pg_advisory_xact_lock_shared(1)" >"$WORK/endless" 2>&1 &
    client=$!
    until_well 60 waits && stop "$1" || status=1
    ! wait "$client" || status=1
    cat "$WORK/endless"
    let_go && return $status
}

check_run() { # pools from the environment, root read-only, nothing mounted
    local id status=0
    docker stop -t 1 "$carpool" # should it still run: there is one of that name at a time
    id=$(docker run -d --read-only --network "${STACK}_back" \
        -e "CARPOOL_POOLS=postgres://shop:$POSTGRES_PASSWORD@postgres/orders
            redis://default:$REDIS_PASSWORD@redis http://http" carpool:dev) || return 1
    docker network connect --alias carpool "${STACK}_front" "$id" && until_well 30 is_healthy "$id" &&
        check_silence "$id" && app ride && check_deadline "$id" || status=1
    [ $status = 0 ] || docker logs "$id"
    docker rm -fv "$id"
    return $status
}

# As it is delivered there is nothing to warn about, but servers that start later than carpool: dials
# that fail, a breaker that opens.
check_silence() { # container id
    local limit excused=' endpoint='
    docker logs "$1" >"$WORK/said" 2>&1 || return 1
    cat "$WORK/said"
    limit=$(docker exec "$1" sh -c 'ulimit -Hn') || return 1
    # Engines grant half a million; one that was started in a narrower place is rightly complained of.
    [ "$limit" = unlimited ] || [ "$limit" -ge 65536 ] || excused+='| warn few_descriptors '
    grep -q ' info listening ' "$WORK/said" &&
        ! grep -vE "$excused" "$WORK/said" | grep -E ' (warn|error) |warning'
}

check_hardened() {
    docker cp "$carpool:/usr/local/bin/carpool" "$WORK/carpool" &&
        "$PYTHON" tests/lint/hardening.py --stripped "$WORK/carpool"
}

run_stack() {
    check "everything starts" compose "$STACK" up -d carpool
    carpool=$(container carpool)
    check "HEALTHCHECK becomes healthy" until_well 30 is_healthy "$carpool"
    check "no warning at start" check_silence "$carpool"
    check "the binary is hardened" check_hardened
    check "an application queries through carpool" until_well 15 check_app
    check "the application has no other way" check_apart
    check "/live, /ready, /metrics from outside, and no more" check_admin
    check "unprivileged, root read-only" check_confined
    [ "$failed" != 0 ] || check_servers # what never worked need not be harmed
    check "docker stop waits for a transaction" check_drain
    check "docker run alone, and its docker stop in the middle of a query" check_run
    if [ "$failed" != 0 ]; then
        say "carpool's log"
        docker logs "$carpool" 2>&1 | tail -n 60
    fi
    echo "$passed $failed 0" >"$WORK/stack.count"
}

# ---- flow tests ----------------------------------------------------------------------------------

# The configuration of the harness' own nginx, for the one in the container.
nginx_conf='
from harness.nginx import CONF
print(CONF.format(folder="/srv/flow", host="0.0.0.0", port=80, keepalive="60s", tls="", limit=""))'

count_tests='
import sys, xml.etree.ElementTree as tree
suites = list(tree.parse(sys.argv[1]).iter("testsuite"))
tests, failures, errors, skipped = (sum(int(s.get(k, 0)) for s in suites)
                                    for k in ("tests", "failures", "errors", "skipped"))
print(tests - failures - errors - skipped, failures + errors, skipped)'

run_flow() { # name part pytest arguments...
    local name=$1 part=$2 net=$FLOW_NET.$2 report=$WORK/$1.xml
    shift 2
    export CARPOOL_FLOW_PROJECT=carpool-flow-$part CARPOOL_FLOW_NET=$net
    export CARPOOL_FLOW_HTTP=$flow_folder/$part
    mkdir -p "$CARPOOL_FLOW_HTTP/big"
    PYTHONPATH=tests/flow "$PYTHON" -c "$nginx_conf" >"$CARPOOL_FLOW_HTTP/nginx.conf"
    rm -f "$report"
    compose "$CARPOOL_FLOW_PROJECT" up -d >"$WORK/$name-up.log" 2>&1 ||
        { cat "$WORK/$name-up.log" && return 1; }
    # The parts share the machine: twice the time for what must happen in time. They share the ports,
    # too: each takes its own, as processes of pytest-xdist do.
    engine_enter env CARPOOL_BIN="$CARPOOL_BIN" CARPOOL_TEST_SLOW="${CARPOOL_TEST_SLOW:-2}" \
        CARPOOL_TEST_POSTGRES="$net.11:5432" CARPOOL_TEST_POSTGRES_ADMIN=postgres:postgres \
        CARPOOL_TEST_REDIS="$net.12:6379" CARPOOL_TEST_HTTP="$net.13:80" \
        CARPOOL_TEST_HTTP_FOLDER="$CARPOOL_FLOW_HTTP" \
        CARPOOL_TEST_FAULT="bash $PWD/deploy/fault.sh" PYTHONDONTWRITEBYTECODE=1 \
        PYTEST_XDIST_WORKER=gw$((part - 1)) PYTEST_XDIST_WORKER_COUNT="$FLOW_PARTS" \
        "$PYTHON" -m pytest -q -p no:cacheprovider --junitxml "$report" "$@" || true
    "$PYTHON" -c "$count_tests" "$report" >"$WORK/$name.count"
}

# ---- all of it -----------------------------------------------------------------------------------

declare -A part_pid
start_part() { # name command...: in the background, with a log of its own
    local name=$1
    shift
    rm -f "$WORK/$name.count" "$WORK/$name.seconds"
    set -m # a process group of its own
    timed "$name" "$@" >"$WORK/$name.log" 2>&1 </dev/null 9>&- &
    set +m
    part_pid[$name]=$!
    running+=($!)
}

timed() { # name command...
    local name=$1 begin=$SECONDS status=0
    shift
    "$@" || status=$?
    echo $((SECONDS - begin)) >"$WORK/$name.seconds"
    return $status
}

end_part() { # name what: wait for it, show what it said, count
    local name=$1 counts=(0 1 0)
    wait "${part_pid[$name]}" || true
    [ ! -s "$WORK/$name.count" ] || read -r -a counts <"$WORK/$name.count"
    say "$2 ($(cat "$WORK/$name.seconds" || echo '?') s)"
    cat "$WORK/$name.log"
    passed=$((passed + counts[0]))
    failed=$((failed + counts[1]))
    skipped=$((skipped + counts[2]))
}

start_flow() { # pytest arguments
    local arg part i place files hand
    for arg; do # a path chosen by the caller replaces ours, and is one part
        case $arg in tests/*) FLOW_PARTS=1 && chosen=1 ;; esac
    done
    # Dealt out there and back, the largest first.
    mapfile -t files < <([ -n "$chosen" ] || ls -S tests/flow/test_*.py)
    for ((part = 1; part <= FLOW_PARTS; part++)); do
        hand=()
        for ((i = 0; i < ${#files[@]}; i++)); do
            place=$((i % (2 * FLOW_PARTS)))
            [ $place -lt "$FLOW_PARTS" ] || place=$((2 * FLOW_PARTS - 1 - place))
            [ $place != $((part - 1)) ] || hand+=("${files[i]}")
        done
        start_part "flow-$part" run_flow "flow-$part" "$part" -m "not alone" "${hand[@]}" "$@"
    done
}

start_alone() { # pytest arguments
    local hand=(tests/flow)
    [ -z "$chosen" ] || hand=()
    start_part flow-alone run_flow flow-alone 1 -m alone "${hand[@]}" "$@"
}

if_possible=
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
flow_folder=$(mktemp -d /tmp/cp-flow-XXXXXX)
chmod 755 "$flow_folder"

tear_down
say "running; this takes a few minutes"
start_part stack run_stack
start_flow "$@"
end_part stack "the stack"
for ((part = 1; part <= FLOW_PARTS; part++)); do
    end_part "flow-$part" "flow tests, part $part"
done
start_alone "$@"
end_part flow-alone "flow tests that measure or take default ports"

say "summary"
printf 'compose: %d passed, %d failed%s\n' "$passed" "$failed" \
    "$([ "$skipped" = 0 ] || echo ", $skipped skipped")"
[ "$failed" = 0 ]
