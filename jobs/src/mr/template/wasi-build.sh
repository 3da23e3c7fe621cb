#!/bin/sh
# Builds map.wasm; with -g, one that names its source lines to `ipdc job debug`. Needs Rust: https://rustup.rs
set -eu
cd "$(dirname "$0")"
target=wasm32-wasip1
test -d "$(rustc --print target-libdir --target "$target")" || rustup target add "$target"
if test "${1-}" = -g; then
    export CARGO_PROFILE_RELEASE_DEBUG=line-tables-only CARGO_PROFILE_RELEASE_STRIP=none
fi
cargo build --quiet --release --target "$target" --target-dir target
cp "target/$target/release/map.wasm" map.wasm
