#!/bin/sh
# Builds map.wasm. Needs clang and lld; on Debian: apt-get install clang lld
set -eu
cd "$(dirname "$0")"
clang --target=wasm32 -O2 -mbulk-memory -nostdlib -Wall -Wextra -Wl,--no-entry,--strip-all -o map.wasm map.c
