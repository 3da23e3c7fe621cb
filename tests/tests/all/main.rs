//! Black-box tests of `ipdc`: real processes, real sockets, real kills. One binary, so that the
//! tests link once.

#![allow(clippy::unwrap_used)]

mod admission;
mod bitswap;
mod by_hand;
mod car;
mod cl;
mod controller;
mod data;
mod debug;
mod docs;
mod end_condition;
mod examples;
mod guests;
mod hostile_guests;
mod hostile_peers;
mod http;
mod input;
mod jobs;
mod keys;
mod kubo;
mod languages;
mod local;
mod logs;
mod memo;
mod memory;
mod mqtt;
mod mqtt_conformance;
mod mqtt_load;
mod mr;
mod nodes;
mod openapi;
mod outsider;
mod policy;
mod process;
mod python;
mod render;
mod steps;
mod stranger;
mod wasi;
mod workers;
