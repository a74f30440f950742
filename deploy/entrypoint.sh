#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The image's entrypoint: `carpool` with the arguments of `docker run`. The image sets two variables for
# pools made from URLs. With a configuration file nobody reads them, and carpool would warn of them:
# away they go, unless the operator has set them to something else, and wants to be warned.

case "${1:-} ${2:-}" in
    "run -c" | "run --config" | "check -c" | "check --config")
        [ "${CARPOOL_LISTEN:-}" != 0.0.0.0 ] || unset CARPOOL_LISTEN
        [ "${CARPOOL_ADMIN_HTTP:-}" != 0.0.0.0:9601 ] || unset CARPOOL_ADMIN_HTTP
        ;;
esac
exec carpool "$@"
