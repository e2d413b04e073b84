//! The programs as people run them, on real stores and real servers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod add_fixed;
mod bad_input;
mod batch;
mod builtin;
mod cli_snapshots;
mod configuration;
mod content_addresses;
mod crash;
mod directories;
mod git_remote;
mod guix;
mod kept;
mod lossy;
mod manual;
mod media;
mod metrics;
mod mirrors;
mod network;
mod nix_builder;
mod nix_store;
mod prefetch;
mod proxies;
mod repositories;
mod resume;
mod retries;
mod several;
mod space;
mod support;
mod unpack;
mod wide;
