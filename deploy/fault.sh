#!/bin/bash
# SPDX-License-Identifier: MIT
#
# fault.sh VERB SERVER: what the flow tests do to the servers of compose.flow.yaml (the verbs are
# explained in tests/flow/harness/servers.py). SERVER: postgres, redis or http. Each verb may be said
# twice.

set -euo pipefail
verb=${1:?a verb} server=${2:?a server}
project=${CARPOOL_FLOW_PROJECT:?is not set} net=${CARPOOL_FLOW_NET:?is not set}
docker() { command "${DOCKER:-docker}" "$@"; }

container() { # service
    local id
    id=$(docker ps -aq --no-trunc --filter "label=com.docker.compose.project=$project" \
        --filter "label=com.docker.compose.service=$1")
    [ -n "$id" ] || { echo "no container of $1 in project $project" >&2; exit 1; }
    printf '%s\n' "$id"
}

case $server in
    postgres) address=$net.11 port=5432 ;;
    redis) address=$net.12 port=6379 ;;
    http) address=$net.13 port=80 ;;
    *) echo "fault.sh: no such server: $server" >&2; exit 2 ;;
esac

listens() { timeout 1 bash -c "exec 3<>/dev/tcp/$address/$port" 2>/dev/null; }

id=$(container "$server")
is() { [ "$(docker inspect -f '{{.State.Status}}' "$id")" = "$1" ]; }

harm() {
    local holder
    case $verb in
        start) is running || docker start "$id" ;;
        stop) docker stop -t 20 "$id" ;;
        kill)
            if is running || is paused; then
                docker kill "$id"
                timeout 20 "${DOCKER:-docker}" wait "$id"
                while listens; do sleep 0.05; done # dead for everybody
            fi
            ;;
        pause) is paused || docker pause "$id" ;;
        resume) ! is paused || docker unpause "$id" ;;
        connect | disconnect)
            holder=$(container "$server-net")
            if [ "$(docker inspect -f '{{len .NetworkSettings.Networks}}' "$holder")" != 0 ]; then
                [ "$verb" = connect ] || docker network disconnect -f "${project}_flow" "$holder"
            else
                [ "$verb" = disconnect ] ||
                    docker network connect --ip "$address" "${project}_flow" "$holder"
            fi
            ;;
        *) echo "fault.sh: no such verb: $verb" >&2; exit 2 ;;
    esac
}

if [ "$verb" = logs ]; then
    docker logs "$id" 2>&1
else
    harm >/dev/null
fi
