//! The network module against a server with bad manners.
