//! What guix-daemon has us do.
//!
//! The daemon runs one program, which `$GUIX` names, for everything that it delegates: `guix perform-download DRV
//! OUTPUT` for the builtin builders, and `substitute`, `authenticate`, `offload` and more besides. [`perform`] is
//! ours; all else goes unchanged to the real guix ([`hand_over`]), as does a download that we cannot do.
//!
//! A derivation is written by whoever may talk to the daemon, and so are the files that it names. [`datum`] reads their
//! Scheme without running any, [`mirrors`] and [`content_addressed`] make URLs of it, and [`request`] refuses what
//! would reach for a file of this machine.

pub mod content_addressed;
pub mod datum;
pub mod hand_over;
pub mod mirrors;
pub mod options;
pub mod perform;
pub mod request;
pub mod trace;
