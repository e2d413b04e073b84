//! placeholder

pub mod net;
pub mod source_url;
