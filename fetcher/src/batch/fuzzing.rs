//! Doors for the fuzz targets.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Component, Path};

use super::entry::{Common, Kind};
use super::{list, plan};
use crate::error::FetchError;
use crate::mirrors::MirrorSites;
use crate::request::Target;
use crate::source_url::SourceUrl;
use crate::staging;

/// Reads a list and plans what it wants, which must not lead out of the folder of outputs, whatever the list says.
/// Returns the number of entries.
pub fn plan(name: &OsStr, bytes: &[u8], base_url: Option<&SourceUrl>) -> Result<usize, FetchError> {
    let folder = Path::new("/outputs");
    let mirror_sites = MirrorSites::default();
    let common = Common {
        folder,
        mirror_sites: &mirror_sites,
    };
    let (plan, list) =
        list::read_from(Box::new(bytes), name, base_url, "a list").and_then(plan::make)?;
    for refused in &list.refused {
        let told = refused.what.chars().chain(refused.reason.chars());
        assert!(!told.clone().any(char::is_control), "{refused:?}");
    }
    let mut paths = HashSet::new();
    for entry in &plan.entries {
        let mut parts = entry.path.components();
        let is_plain = |part: Component<'_>| match part {
            Component::Normal(name) => !staging::is_hidden_name(name),
            _ => false,
        };
        assert!(parts.all(is_plain), "{entry:?}");
        assert!(paths.insert(entry.path.as_path()), "twice: {entry:?}");
        let request = entry.request(&common);
        let Target::Path(output) = &request.target else {
            panic!("{entry:?}");
        };
        assert!(output.starts_with(folder) && output != folder, "{entry:?}");
        if let Kind::Git { .. } = entry.kind {
            let git = request.git.as_ref().expect("it can be parsed again");
            assert!(matches!(git.url.url().scheme(), "http" | "https" | "git"));
            assert!(!git.may_run_ssh);
        }
        let _host = entry.host();
    }
    let above = |path: &&Path| {
        path.ancestors()
            .skip(1)
            .any(|folder| paths.contains(folder))
    };
    assert!(!paths.iter().any(above), "one below the other");
    let mut grouped: Vec<usize> = plan.groups.concat();
    grouped.sort_unstable();
    assert!(grouped.into_iter().eq(0..plan.entries.len()));
    Ok(plan.entries.len())
}
