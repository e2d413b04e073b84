//! How many bodies come from each host at the moment, for the whole process: nobody is asked by more connections than
//! are allowed because several downloads do not know of each other.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::source_url::SourceUrl;

static OPEN: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

/// One connection that counts, as long as it is held.
#[derive(Debug)]
pub(super) struct Counted(String);

/// Counts a connection that is there in any case.
pub(super) fn count(url: &SourceUrl) -> Counted {
    let host = url.host().unwrap_or_default().to_owned();
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    *open.entry(host.clone()).or_default() += 1;
    Counted(host)
}

/// Counts one more, unless there are so many already.
pub(super) fn one_more(url: &SourceUrl, most: u32) -> Option<Counted> {
    let host = url.host().unwrap_or_default().to_owned();
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let count = open.entry(host.clone()).or_default();
    if *count >= most {
        return None;
    }
    *count += 1;
    Some(Counted(host))
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.0);
            }
        }
    }
}
