//! `perform-download`, run as guix-daemon runs it, on its real derivations.

mod clones;
mod downloads;
mod hand_over;
mod hostile;
mod local;
