#!/bin/sh
# Builds map.wasm; with -g, one that names its functions to `ipdc job debug`. Needs npm: https://nodejs.org
set -eu
cd "$(dirname "$0")"
if test "${1-}" = -g; then debug=--debug; else debug=; fi
npx --yes --package assemblyscript@0.28.20 -- \
    asc map.ts -O3 --noAssert --runtime minimal --use abort= $debug -o map.wasm
