#!/bin/sh
# Builds map.wasm. Needs Rust: https://rustup.rs
set -eu
cd "$(dirname "$0")"
target=wasm32-wasip1
test -d "$(rustc --print target-libdir --target "$target")" || rustup target add "$target"
cargo build --quiet --release --target "$target" --target-dir target
cp "target/$target/release/map.wasm" map.wasm
