#!/bin/bash
# SPDX-License-Identifier: MIT
#
# ./dev image [TAG]: build the image (default: carpool:dev) with the Docker engine that answers, or
# with one of our own. An image built by our own engine stays in build/docker; give `--save FILE` to
# take it along as a file for `docker load`.

set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
. deploy/engine.sh

tag=carpool:dev file=
while [ $# != 0 ]; do
    case $1 in
        --save) file=${2:?--save needs a file} && shift 2 ;;
        -*) echo "usage: ./dev image [TAG] [--save FILE]" >&2; exit 2 ;;
        *) tag=$1 && shift ;;
    esac
done

if ! engine_find; then
    if [ "$(id -u)" != 0 ] && command -v sudo >/dev/null; then
        exec sudo -- bash "$0" "$tag" ${file:+--save "$file"}
    fi
    trap engine_close EXIT
    engine_packages
    engine_start build
fi
engine_base
say "building $tag"
engine_carpool "$tag"
engine_tidy
[ -z "$file" ] || docker save -o "$file" "$tag"
docker image ls "$tag"
