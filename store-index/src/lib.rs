//! Content by hash on this machine: content addresses, store paths, and an index that answers "which file has this
//! digest?" for Nix and Guix stores, folders and media.
//!
//! The crate is synchronous and offline: it has no network code and no async runtime, and the fetcher depends on it,
//! never the other way round. What it finds is a hint; whoever uses a file hashes it again as it lands.

pub mod address;
pub mod beneath;
pub mod check;
pub mod checksum_list;
pub mod digest;
pub mod directory_links;
pub mod format;
pub mod git_tree;
mod hash_file;
pub mod hash_text;
pub mod index;
pub mod index_writer;
pub mod key;
pub mod links;
pub mod manifest;
pub mod manual;
pub mod media;
pub mod mounts;
pub mod nar;
pub mod nix32;
pub mod path_text;
pub mod places;
pub mod read_at;
pub mod root;
pub mod segment;
pub mod store_database;
pub mod store_option;
pub mod store_path;
pub mod store_state;
pub mod terminal;
pub mod tree;
pub mod update;
pub mod watch;
