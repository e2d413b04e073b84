//! Fetches content by hash: what this machine already has is copied, the rest is downloaded, and nothing becomes an
//! output that was not hashed here as it landed.
//!
//! A [`request::Request`] walks through [`fetch::run`]: the [`source`]s are asked in order, cheapest first and the
//! network last; a candidate lands in [`staging`] while it is hashed ([`copy`], [`net`]); [`verify`] alone can call it
//! right; [`publish`] gives it the output's name in one step. Beside the walk stand the [`places`] that may be asked,
//! the [`stale_hash`] guard, and the [`report`].

pub mod add_fixed;
pub mod archives;
pub mod batch;
pub mod builtin;
pub mod cli;
pub mod configuration;
pub mod copy;
pub mod derivation;
mod diagnosis;
pub mod discs;
mod disk;
mod download;
pub mod error;
pub mod explain;
pub mod fetch;
pub mod git;
pub mod guix;
mod hashing;
mod landing;
pub mod metrics;
pub mod mirror_layout;
pub mod mirrors;
pub mod net;
pub mod nix;
mod output;
mod own_folder;
pub mod places;
pub mod prefetch;
pub mod present_store;
pub mod publish;
pub mod report;
pub mod request;
pub mod source;
pub mod source_url;
pub mod staging;
pub mod stale_hash;
pub mod state;
mod tree_copy;
pub mod unpack;
mod verdict;
pub mod verify;
