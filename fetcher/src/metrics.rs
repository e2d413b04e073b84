//! Counts of what fetches did, in the text format that Prometheus reads, for the textfile collector of node_exporter.
//!
//! They are made of reports, when a run is over. A file is added to, not begun anew: whoever reads it looks at it now
//! and then, and would miss all runs between two looks but the last. docs/metrics.md names every metric.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_err as fs;
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::ErrorKind;
use crate::report::Attempt;
use crate::source::SourceKind;

/// The longest file that is added to, in bytes: ours have some 20 KiB.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The upper ends of the classes of times, in seconds.
const CLASSES: [&str; 8] = ["0.001", "0.01", "0.1", "1", "10", "60", "600", "+Inf"];

/// Who may read the file: the collector is another user.
const FILE_MODE: u32 = 0o644;

/// How a metric is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

const RUNS: &str = "fetch_runs_total";
const RUN_SECONDS: &str = "fetch_run_duration_seconds";
const LAST_RUN: &str = "fetch_last_run_timestamp_seconds";
const DELIVERED: &str = "fetch_delivered_total";
const DELIVERED_BYTES: &str = "fetch_delivered_bytes_total";
const ATTEMPTS: &str = "fetch_attempts_total";
const ATTEMPT_BYTES: &str = "fetch_attempt_bytes_total";
const ATTEMPT_SECONDS: &str = "fetch_attempt_duration_seconds";

/// All of them, in the order of the file.
const METRICS: [(&str, Kind, &str); 8] = [
    (
        RUNS,
        Kind::Counter,
        "Contents asked for, by how that ended.",
    ),
    (
        RUN_SECONDS,
        Kind::Histogram,
        "Time for one content, waiting included.",
    ),
    (LAST_RUN, Kind::Gauge, "When this file was last added to."),
    (
        DELIVERED,
        Kind::Counter,
        "Contents delivered, by the kind of source.",
    ),
    (
        DELIVERED_BYTES,
        Kind::Counter,
        "Bytes delivered, by the kind of source.",
    ),
    (
        ATTEMPTS,
        Kind::Counter,
        "Sources asked and places tried, by the kind of source and how that ended.",
    ),
    (
        ATTEMPT_BYTES,
        Kind::Counter,
        "Bytes copied or received whole, right or wrong, by the kind of source.",
    ),
    (
        ATTEMPT_SECONDS,
        Kind::Histogram,
        "Time for a source or place, by the kind of source.",
    ),
];

/// What several fetches did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// By name with labels, as it stands in the file.
    samples: BTreeMap<String, f64>,
}

/// What one fetch did.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// What was tried.
    pub attempts: &'a [Attempt],
    /// Whence the content came and how many bytes it has, or how the fetch ended without it. `None` in the first is
    /// content that was there before.
    pub end: Result<Option<(SourceKind, u64)>, ErrorKind>,
    /// How long it took.
    pub took: Duration,
}

impl Metrics {
    /// Adds what one fetch did.
    pub fn add(&mut self, run: &Run<'_>) {
        let result = run.end.as_ref().map_or_else(|kind| kind.name(), |_| "ok");
        self.count(RUNS, &[("result", result)], 1);
        self.time(RUN_SECONDS, &[], run.took);
        for attempt in run.attempts {
            let source = ("source", attempt.kind.name());
            self.count(ATTEMPTS, &[source, ("result", attempt.result.name())], 1);
            self.count(ATTEMPT_BYTES, &[source], attempt.bytes);
            self.time(ATTEMPT_SECONDS, &[source], attempt.took);
        }
        if let Ok(Some((source, bytes))) = run.end {
            let source = ("source", source.name());
            self.count(DELIVERED, &[source], 1);
            self.count(DELIVERED_BYTES, &[source], bytes);
        }
    }

    fn count(&mut self, name: &str, labels: &[(&str, &str)], more: u64) {
        self.more(series(name, labels), more as f64);
    }

    fn time(&mut self, name: &str, labels: &[(&str, &str)], took: Duration) {
        let seconds = took.as_secs_f64();
        for class in CLASSES {
            let is_in = seconds <= class.parse().unwrap_or(f64::INFINITY);
            let mut labels = labels.to_vec();
            labels.push(("le", class));
            self.count(&format!("{name}_bucket"), &labels, u64::from(is_in));
        }
        self.more(series(&format!("{name}_sum"), labels), seconds);
        self.count(&format!("{name}_count"), labels, 1);
    }

    fn more(&mut self, series: String, more: f64) {
        *self.samples.entry(series).or_default() += more;
    }

    /// Adds all of this to a file, which is made if there is none. Others that do so at the same time are waited for.
    pub fn add_to(&self, path: &Path) -> io::Result<()> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = rustix::fs::open(folder, flags, Mode::empty())?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
        let mut all = match fs::File::open(path) {
            Ok(file) => Self::read(file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(error),
        };
        for (series, value) in &self.samples {
            all.more(series.clone(), *value);
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        all.samples
            .insert(LAST_RUN.to_owned(), now.as_secs() as f64);
        // The collector takes names that end in ".prom".
        let mut file = tempfile::Builder::new()
            .prefix(".fetch-metrics-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(FILE_MODE))
            .tempfile_in(folder)?;
        file.write_all(all.to_text().as_bytes())?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    /// Reads what we wrote.
    fn read(file: fs::File) -> io::Result<Self> {
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, MAX_FILE_BYTES), &mut text)?;
        Self::parse(&text).ok_or_else(|| {
            io::Error::other("it is there and was not written by fetch: remove it, or name another")
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut samples = BTreeMap::new();
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        for line in lines {
            let (series, value) = line.rsplit_once(' ')?;
            let name = series.split('{').next()?;
            let is_ours = METRICS.iter().any(|(ours, kind, _)| match kind {
                Kind::Histogram => ["_bucket", "_sum", "_count"]
                    .iter()
                    .any(|ending| name.strip_suffix(ending) == Some(ours)),
                _ => name == *ours,
            });
            if !is_ours {
                return None;
            }
            samples.insert(series.to_owned(), value.parse().ok()?);
        }
        Some(Self { samples })
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, kind, help) in METRICS {
            let of_it = |series: &&String| {
                let own = series.split('{').next().unwrap_or_default();
                match kind {
                    Kind::Histogram => own.rsplit_once('_').is_some_and(|(own, _)| own == name),
                    _ => own == name,
                }
            };
            let mut samples: Vec<_> = self.samples.keys().filter(of_it).collect();
            if samples.is_empty() {
                continue;
            }
            samples.sort_by_key(|series| order(series));
            let kind = kind.name();
            // Writing to a string cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            for series in samples {
                let _ = writeln!(text, "{series} {}", self.samples[series]);
            }
        }
        text
    }
}

/// Classes of times stand in the order of their ends, behind them sum and count, for one source after the other.
fn order(series: &str) -> (String, usize) {
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let (labels, class) = match labels.split_once("le=\"") {
        Some((labels, class)) => (labels.trim_end_matches(','), class.trim_end_matches("\"}")),
        None => (labels.trim_end_matches('}'), ""),
    };
    let rank = CLASSES.iter().position(|known| *known == class);
    let rank = rank.unwrap_or(match name.ends_with("_sum") {
        true => CLASSES.len(),
        false => CLASSES.len() + 1,
    });
    (labels.to_owned(), rank)
}

/// Names a series. All labels are words of ours, which need no escaping.
fn series(name: &str, labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return name.to_owned();
    }
    let labels = labels
        .iter()
        .map(|(key, value)| format!("{key}=\"{value}\""));
    format!("{name}{{{}}}", labels.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::AttemptResult;

    fn metrics() -> Metrics {
        let attempt = |kind, result, bytes, took| Attempt {
            kind,
            location: "http://h/\"a\"\n".to_owned(),
            result,
            reason: None,
            bytes,
            took: Duration::from_millis(took),
        };
        let mut metrics = Metrics::default();
        metrics.add(&Run {
            attempts: &[
                attempt(SourceKind::Store, AttemptResult::Absent, 0, 1),
                attempt(SourceKind::Url, AttemptResult::Mismatch, 7, 20),
                attempt(SourceKind::Url, AttemptResult::Ok, 100, 70_000),
            ],
            end: Ok(Some((SourceKind::Url, 100))),
            took: Duration::from_secs(71),
        });
        metrics.add(&Run {
            attempts: &[],
            end: Err(ErrorKind::NotFound),
            took: Duration::ZERO,
        });
        metrics
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let text = metrics().to_text();
        for lines in [
            "# HELP fetch_runs_total Contents asked for, by how that ended.\n# TYPE fetch_runs_total counter\nfetch_runs_total{result=\"not-found\"} 1\nfetch_runs_total{result=\"ok\"} 1\n",
            "fetch_attempts_total{source=\"url\",result=\"mismatch\"} 1\n",
            "fetch_attempt_bytes_total{source=\"url\"} 107\n",
            "fetch_delivered_bytes_total{source=\"url\"} 100\n",
            "# TYPE fetch_attempt_duration_seconds histogram\n",
            concat!(
                "fetch_attempt_duration_seconds_bucket{source=\"url\",le=\"0.01\"} 0\n",
                "fetch_attempt_duration_seconds_bucket{source=\"url\",le=\"0.1\"} 1\n",
                "fetch_attempt_duration_seconds_bucket{source=\"url\",le=\"1\"} 1\n",
                "fetch_attempt_duration_seconds_bucket{source=\"url\",le=\"10\"} 1\n",
                "fetch_attempt_duration_seconds_bucket{source=\"url\",le=\"60\"} 1\n",
                "fetch_attempt_duration_seconds_bucket{source=\"url\",le=\"600\"} 2\n",
                "fetch_attempt_duration_seconds_bucket{source=\"url\",le=\"+Inf\"} 2\n",
                "fetch_attempt_duration_seconds_sum{source=\"url\"} 70.02\n",
                "fetch_attempt_duration_seconds_count{source=\"url\"} 2\n",
            ),
            "fetch_run_duration_seconds_count 2\n",
        ] {
            assert!(text.contains(lines), "{lines}\n{text}");
        }
        assert_eq!(Metrics::parse(&text), Some(metrics()), "it is read back");
    }

    #[test]
    fn other_files_are_not_taken_for_ours() {
        for text in [
            "node_cpu 1\n",
            "hello\n",
            "fetch_runs_total x\n",
            "fetch_runs_totals 1\n",
        ] {
            assert_eq!(Metrics::parse(text), None, "{text}");
        }
        assert_eq!(Metrics::parse(""), Some(Metrics::default()));
    }
}
