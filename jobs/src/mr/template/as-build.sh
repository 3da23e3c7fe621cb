#!/bin/sh
# Builds map.wasm. Needs npm: https://nodejs.org
set -eu
cd "$(dirname "$0")"
npx --yes --package assemblyscript@0.28.20 -- \
    asc map.ts -O3 --noAssert --runtime minimal --use abort= -o map.wasm
