//! The rows of the table, and the page that they make.

use std::fmt::Write as _;
use std::path::Path;

use crate::measure::{Sample, Series, Spread, pairs};

/// What a number has to keep to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// Shown for comparison.
    None,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    what: String,
    target: String,
    ours: String,
    peer: String,
    figure: String,
    /// `None` without a target.
    missed_by: Option<f64>,
    /// Why it is missed, when it is.
    why: &'static str,
}

impl Row {
    /// Our time divided by the peer's.
    pub(crate) fn times(what: &str, ours: &Series, peer: &Series, bound: Bound) -> Self {
        let ratio = pairs(ours, peer, |ours, peer| seconds(ours) / seconds(peer));
        Self::compared(what, ours, peer, "×", ratio, bound)
    }

    /// How many times as fast we are: the peer's time divided by ours.
    pub(crate) fn faster(what: &str, ours: &Series, peer: &Series, bound: Bound) -> Self {
        let ratio = pairs(ours, peer, |ours, peer| seconds(peer) / seconds(ours));
        Self::compared(what, ours, peer, "× as fast", ratio, bound)
    }

    /// Our processor time divided by the peer's.
    pub(crate) fn cpu(what: &str, ours: &Series, peer: &Series, bound: Bound) -> Self {
        let ratio = pairs(ours, peer, |ours, peer| {
            ours.cpu.as_secs_f64() / peer.cpu.as_secs_f64()
        });
        let mut row = Self::compared(what, ours, peer, "×", ratio, bound);
        row.ours = show_seconds(ours.cpu());
        row.peer = format!("{}: {}", peer.name, show_seconds(peer.cpu()));
        row
    }

    /// Our most memory divided by the peer's.
    pub(crate) fn memory(what: &str, ours: &Series, peer: &Series) -> Self {
        let peak = |series: &Series| series.peak_bytes() as f64 / f64::from(1 << 20);
        let ratio = pairs(ours, peer, |ours, peer| {
            ours.peak_bytes as f64 / peer.peak_bytes as f64
        });
        let row = Self::compared(what, ours, peer, "×", ratio, Bound::None);
        let figure = row.figure.clone();
        row.showing(
            format!("{:.1} MiB", peak(ours)),
            format!("{}: {:.1} MiB", peer.name, peak(peer)),
            figure,
        )
    }

    /// Our wall time less the peer's, in milliseconds.
    pub(crate) fn above(what: &str, ours: &Series, peer: &Series, bound: Bound) -> Self {
        let difference = pairs(ours, peer, |ours, peer| {
            (seconds(ours) - seconds(peer)) * 1e3
        });
        let mut row = Self::compared(what, ours, peer, " ms more", difference, bound);
        row.target = target(bound, " ms more");
        row
    }

    fn compared(
        what: &str,
        ours: &Series,
        peer: &Series,
        unit: &str,
        figure: Spread,
        bound: Bound,
    ) -> Self {
        Self {
            what: what.to_owned(),
            target: target(bound, unit),
            ours: show_seconds(ours.wall()),
            peer: format!("{}: {}", peer.name, show_seconds(peer.wall())),
            figure: format!("{}{unit}", show(figure)),
            missed_by: missed_by(figure.median, bound),
            why: "",
        }
    }

    /// A number by itself, or one worked out from others.
    pub(crate) fn value(what: &str, value: Spread, unit: &str, bound: Bound) -> Self {
        Self {
            what: what.to_owned(),
            target: target(bound, unit),
            ours: format!("{}{unit}", show(value)),
            peer: String::new(),
            figure: String::new(),
            missed_by: missed_by(value.median, bound),
            why: "",
        }
    }

    /// A line that could not be measured here.
    pub(crate) fn not_measured(what: &str, reason: &str) -> Self {
        Self {
            what: what.to_owned(),
            target: String::new(),
            ours: format!("not measured: {reason}"),
            peer: String::new(),
            figure: String::new(),
            missed_by: None,
            why: "",
        }
    }

    /// Replaces what is shown of us, of the peer and of the two.
    pub(crate) fn showing(mut self, ours: String, peer: String, figure: String) -> Self {
        (self.ours, self.peer, self.figure) = (ours, peer, figure);
        self
    }

    /// Says why the target is missed, for the case that it is.
    pub(crate) fn if_missed(mut self, why: &'static str) -> Self {
        self.why = why;
        self
    }

    fn verdict(&self) -> String {
        match self.missed_by {
            _ if self.target.is_empty() => "–".to_owned(),
            None => "met".to_owned(),
            Some(part) => format!("**missed** by {:.0} %", (part * 100.0).max(1.0)),
        }
    }

    /// Returns the row as a line of a Markdown table.
    pub(crate) fn line(&self) -> String {
        let cells = [
            &self.what,
            &self.target,
            &self.ours,
            &self.peer,
            &self.figure,
            &self.verdict(),
        ];
        cells.iter().fold("|".to_owned(), |line, cell| {
            format!("{line} {} |", cell.replace('|', "\\|"))
        })
    }
}

/// The head of the table.
pub(crate) const HEAD: &str = "\
| what | target | ours | peer | ratio | |
|---|---|---|---|---|---|";

fn seconds(sample: &Sample) -> f64 {
    sample.wall.as_secs_f64()
}

fn target(bound: Bound, unit: &str) -> String {
    match bound {
        Bound::AtMost(most) => format!("≤ {}{unit}", number(most)),
        Bound::AtLeast(least) => format!("≥ {}{unit}", number(least)),
        Bound::None => String::new(),
    }
}

fn missed_by(value: f64, bound: Bound) -> Option<f64> {
    match bound {
        Bound::AtMost(most) if value > most => Some(value / most - 1.0),
        Bound::AtLeast(least) if value < least => Some(1.0 - value / least),
        // What is no number keeps to nothing.
        Bound::AtMost(_) | Bound::AtLeast(_) if value.is_nan() => Some(f64::INFINITY),
        _ => None,
    }
}

/// Shows seconds in the unit that fits.
pub(crate) fn show_seconds(spread: Spread) -> String {
    let (factor, unit) = if spread.median < 0.1 {
        (1e3, " ms")
    } else {
        (1.0, " s")
    };
    let scaled = Spread {
        min: spread.min * factor,
        median: spread.median * factor,
        max: spread.max * factor,
    };
    format!("{}{unit}", show(scaled))
}

/// Shows the median, and the range if there is one.
pub(crate) fn show(spread: Spread) -> String {
    if spread.min >= spread.max {
        return number(spread.median);
    }
    format!(
        "{} ({}–{})",
        number(spread.median),
        number(spread.min),
        number(spread.max)
    )
}

/// Three digits that count, and whole thousands apart.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let plain = format!("{value:.decimals$}");
    if value.abs() < 10_000.0 {
        return plain;
    }
    let mut parted = String::new();
    for (position, digit) in plain.chars().enumerate() {
        if position > 0 && (plain.len() - position).is_multiple_of(3) {
            parted.push(',');
        }
        parted.push(digit);
    }
    parted
}

/// Writes the page.
pub(crate) fn page(rows: &[Row], machine: &[(String, String)], notes: &[&str]) -> String {
    let mut page = String::from(
        "# Benchmarks\n\nWritten by `tests/bench`, which measures our programs and what people would use instead side by side, on one machine, in one run. \
         Absolute times belong to this machine; the ratios are what counts.\n\n",
    );
    for (name, value) in machine {
        let _ = writeln!(page, "- {name}: {value}");
    }
    let _ = writeln!(page, "\n{HEAD}");
    for row in rows {
        let _ = writeln!(page, "{}", row.line());
    }
    page.push_str("\n## How it is measured\n\n");
    for note in notes {
        let _ = writeln!(page, "- {note}");
    }
    let missed: Vec<_> = rows.iter().filter(|row| row.missed_by.is_some()).collect();
    page.push_str("\n## What is missed, and why\n\n");
    if missed.is_empty() {
        page.push_str("Nothing in this run.\n");
    }
    for row in missed {
        let why = if row.why.is_empty() {
            "not explained yet."
        } else {
            row.why
        };
        let _ = writeln!(page, "- {} ({}): {why}", row.what, row.verdict());
    }
    page
}

/// What of the machine matters here.
pub(crate) fn machine(scratch: &Path) -> Vec<(String, String)> {
    let read = |path: &str| fs_err::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let field = |name: &str| {
        cpus.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let flags = field("flags");
    let flags: Vec<_> = ["sha_ni", "avx2", "avx512f"]
        .into_iter()
        .filter(|flag| flags.split(' ').any(|other| other == *flag))
        .collect();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = read("/proc/meminfo");
    let memory: f64 = memory
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .unwrap_or(0.0);
    let version = |program: &str, argument: &str| {
        let said = std::process::Command::new(program).arg(argument).output();
        said.map(|said| [said.stdout, said.stderr].concat())
            .ok()
            .and_then(|said| {
                String::from_utf8_lossy(&said)
                    .lines()
                    .next()
                    .map(str::to_owned)
            })
            .unwrap_or_else(|| format!("{program}: not here"))
    };
    let tools = [
        version("openssl", "version"),
        version("curl", "--version"),
        version("aria2c", "--version"),
        version("nginx", "-v"),
        version("git", "--version"),
        version("nix-store", "--version"),
        version("cp", "--version"),
    ];
    let pair = |name: &str, value: String| (name.to_owned(), value);
    vec![
        pair("date", version("date", "-u")),
        pair("command", "`tests/bench`".to_owned()),
        pair(
            "processor",
            format!(
                "{}, {cores} cores, {}",
                field("model name"),
                flags.join(" ")
            ),
        ),
        pair("memory", format!("{:.0} GiB", memory / 1024.0 / 1024.0)),
        pair(
            "kernel",
            format!(
                "Linux {}, load average at the start {}{}",
                read("/proc/sys/kernel/osrelease").trim(),
                read("/proc/loadavg").split(' ').next().unwrap_or_default(),
                priority()
            ),
        ),
        pair("file system", file_system(scratch)),
        pair("compiler", version("rustc", "--version")),
        pair("peers", tools.join(" · ")),
    ]
}

/// Says whether we were preferred to what else ran, as on a machine that others use too.
fn priority() -> String {
    // Where the scheduler shares time between sessions, the session's own number decides.
    let session = fs_err::read_to_string("/proc/self/autogroup").unwrap_or_default();
    let session = session
        .trim()
        .rsplit(' ')
        .next()
        .and_then(|nice| nice.parse().ok());
    let own = rustix::process::getpriority_process(None).unwrap_or(0);
    match session.filter(|nice| *nice != 0).unwrap_or(own) {
        0 => String::new(),
        nice => format!(", everything measured ran at nice {nice}"),
    }
}

/// The type of the file system that a path lies on.
fn file_system(path: &Path) -> String {
    let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            let point = mount.split(' ').nth(4)?;
            path.starts_with(point)
                .then(|| (point.len(), kind.split(' ').next().unwrap_or_default()))
        })
        .max()
        .map(|(_, kind)| kind.to_owned())
        .unwrap_or_default()
}
