//! What the environment decides: trusted certificates and proxies. Each case runs in a process of its own.
