#!/bin/sh
# Builds map.wasm; with -g, one that names its source lines to `ipdc job debug`. Needs clang and lld; on Debian:
# apt-get install clang lld
set -eu
cd "$(dirname "$0")"
if test "${1-}" = -g; then debug=-g; else debug=-Wl,--strip-all; fi
clang --target=wasm32 -O2 -mbulk-memory -nostdlib -Wall -Wextra \
    -Wl,--no-entry "$debug" -o map.wasm map.c
