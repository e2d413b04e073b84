//! Tests that cannot run here say so aloud.

use std::io::Write as _;

/// Returns true, and says why, if some program or root's rights are missing; see [`skipped`].
#[must_use = "the test must end where something is missing"]
pub(crate) fn lacks(test: &str, programs: &[&str], root: bool) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there =
        |program: &&&str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    let reason = match programs.iter().find(|program| !is_there(program)) {
        Some(program) => format!("needs the program {program}"),
        None if root && !is_root() => "needs root".to_owned(),
        None => return false,
    };
    skipped(test, &reason);
    true
}

/// Says past the test runner's capture, and in the list that tests/run prints, that a test does not run; with
/// `FETCH_TESTS_REQUIRE_ALL=1` that is a failure.
pub(crate) fn skipped(test: &str, reason: &str) {
    assert!(
        std::env::var_os("FETCH_TESTS_REQUIRE_ALL").is_none_or(|value| value != "1"),
        "{test} {reason}, and FETCH_TESTS_REQUIRE_ALL=1"
    );
    let line = format!("SKIPPED: {test} {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    if let Some(log) = std::env::var_os("FETCH_TESTS_SKIPPED_LOG") {
        let mut log = fs_err::OpenOptions::new()
            .append(true)
            .create(true)
            .open(std::path::PathBuf::from(log))
            .unwrap();
        log.write_all(line.as_bytes()).unwrap();
    }
}

/// Says whether the tests run as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
