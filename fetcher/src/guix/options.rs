//! What the client told the daemon, as far as it concerns us: `_NIX_OPTIONS`.

use std::time::Duration;

/// What the daemon puts before a key that an untrusted user has set.
const UNTRUSTED: &str = "untrusted-";

/// The options that count here. Whoever asked for the build may have set them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether the client wants to be told of downloads by lines for programs.
    pub trace: bool,
    /// After how long a silence the daemon kills us; `None` for never.
    pub max_silence: Option<Duration>,
}

impl Options {
    /// Reads lines of `key=value`. What is not understood is somebody else's.
    pub fn parse(text: &str) -> Self {
        let mut options = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            match key.strip_prefix(UNTRUSTED).unwrap_or(key) {
                "print-extended-build-trace" => options.trace |= value == "1",
                "build-max-silent-time" => {
                    options.max_silence = value
                        .parse()
                        .ok()
                        .filter(|&seconds| seconds > 0)
                        .map(Duration::from_secs);
                }
                _ => {}
            }
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_count_with_and_without_the_prefix() {
        for text in [
            "build-fallback=0\nprint-extended-build-trace=1\nuser-name=me\n",
            "build-fallback=0\nuntrusted-print-extended-build-trace=1\nuser-name=me",
        ] {
            assert!(Options::parse(text).trace, "{text}");
        }
        for text in [
            "",
            "print-extended-build-trace=0\n",
            "untrusted-print-extended-build-trace=\n",
            "user-name=print-extended-build-trace=1",
            "print-extended-build-trace",
            "no-print-extended-build-trace=1",
        ] {
            assert!(!Options::parse(text).trace, "{text}");
        }
        let silence = |text| Options::parse(text).max_silence;
        assert_eq!(
            silence("untrusted-build-max-silent-time=60"),
            Some(Duration::from_secs(60))
        );
        assert_eq!(silence("build-max-silent-time=0"), None);
        assert_eq!(silence("build-max-silent-time=-1"), None);
    }
}
