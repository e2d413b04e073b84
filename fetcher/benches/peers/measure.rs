//! Runs programs in turn, A B A B, and says what each run took: whole processes, by the kernel's own accounting.

use std::ffi::{OsStr, OsString};
use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use wait4::Wait4 as _;

use crate::Result;

/// Runs before the counted ones.
pub(crate) const WARM_UPS: usize = 1;

/// What one run took.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) wall: Duration,
    /// User and system time of the process and all its descendants.
    pub(crate) cpu: Duration,
    /// The most memory that was resident, of the largest single process.
    pub(crate) peak_bytes: u64,
    /// What it wrote to standard output.
    pub(crate) output: String,
}

/// A program to be measured.
pub(crate) struct Job<'a> {
    name: String,
    words: Vec<OsString>,
    exit_code: i32,
    prepare: Box<dyn Fn() -> Result<()> + 'a>,
}

impl<'a> Job<'a> {
    pub(crate) fn new<S: AsRef<OsStr>>(name: &str, words: impl IntoIterator<Item = S>) -> Self {
        Self {
            name: name.to_owned(),
            words: words
                .into_iter()
                .map(|word| word.as_ref().to_owned())
                .collect(),
            exit_code: 0,
            prepare: Box::new(|| Ok(())),
        }
    }

    /// A line for the shell; the arguments are `$1`, `$2`, ...
    pub(crate) fn shell<S: AsRef<OsStr>>(
        name: &str,
        line: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut job = Self::new(name, ["sh", "-c", line, "sh"]);
        job.words
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        job
    }

    /// Adds arguments.
    pub(crate) fn with<'s>(mut self, args: impl IntoIterator<Item = &'s OsStr>) -> Self {
        self.words.extend(args.into_iter().map(OsStr::to_owned));
        self
    }

    /// Expects another exit code than 0.
    pub(crate) fn exits_with(mut self, exit_code: i32) -> Self {
        self.exit_code = exit_code;
        self
    }

    /// Does this before every run; it is not measured.
    pub(crate) fn prepared_by(mut self, prepare: impl Fn() -> Result<()> + 'a) -> Self {
        self.prepare = Box::new(prepare);
        self
    }

    /// Does what has to be done before a run.
    pub(crate) fn prepare(&self) -> Result<()> {
        (self.prepare)()
    }

    fn run(&self, scratch: &Path) -> Result<Sample> {
        self.prepare()?;
        self.run_prepared(scratch)
    }

    /// Runs it once.
    pub(crate) fn run_prepared(&self, scratch: &Path) -> Result<Sample> {
        // Files, not pipes: nobody has to empty them while the clock runs.
        let mut output = tempfile::tempfile_in(scratch)?;
        let mut complaints = tempfile::tempfile_in(scratch)?;
        let mut command = Command::new(&self.words[0]);
        command
            .args(&self.words[1..])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LC_ALL", "C")
            .env("HOME", scratch)
            .env("XDG_CACHE_HOME", scratch.join("cache"))
            .current_dir(scratch)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(complaints.try_clone()?);
        let begun = Instant::now();
        let ended = command
            .spawn()
            .map_err(|error| format!("cannot run {:?}: {error}", self.words[0]))?
            .wait4()?;
        let wall = begun.elapsed();
        let text = |file: &mut std::fs::File| -> Result<String> {
            let mut bytes = Vec::new();
            file.rewind()?;
            file.take(64 * 1024).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        if ended.status.code() != Some(self.exit_code) {
            let said = text(&mut complaints)?;
            return Err(
                format!("{} ({:?}): {}\n{said}", self.name, self.words, ended.status).into(),
            );
        }
        Ok(Sample {
            wall,
            cpu: ended.rusage.utime + ended.rusage.stime,
            peak_bytes: ended.rusage.maxrss,
            output: text(&mut output)?,
        })
    }
}

/// The runs of one program.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) samples: Vec<Sample>,
}

/// The least, the middle and the most of something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.as_slice() {
            [] => f64::NAN,
            _ if values.len() % 2 == 1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        let end = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        Self {
            min: end(values.first()),
            median,
            max: end(values.last()),
        }
    }
}

impl Series {
    /// Wall time in seconds.
    pub(crate) fn wall(&self) -> Spread {
        Spread::of(self.samples.iter().map(|sample| sample.wall.as_secs_f64()))
    }

    /// Processor time in seconds.
    pub(crate) fn cpu(&self) -> Spread {
        Spread::of(self.samples.iter().map(|sample| sample.cpu.as_secs_f64()))
    }

    /// The most memory of any run, in bytes.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.samples
            .iter()
            .map(|sample| sample.peak_bytes)
            .max()
            .unwrap_or(0)
    }

    /// What the runs printed under this name: lines of `name value`.
    pub(crate) fn printed(&self, name: &str) -> Result<Spread> {
        let mut values = Vec::new();
        for sample in &self.samples {
            let value = sample
                .output
                .lines()
                .filter_map(|line| line.split_once(' '))
                .find(|(key, _)| *key == name)
                .ok_or_else(|| format!("{} printed no {name}: {}", self.name, sample.output))?;
            values.push(value.1.parse::<f64>()?);
        }
        Ok(Spread::of(values))
    }
}

/// Compares two series pair by pair: the first run of one with the first of the other, and so on, so that a machine
/// that becomes slower meanwhile does not matter.
pub(crate) fn pairs(
    ours: &Series,
    peer: &Series,
    compare: impl Fn(&Sample, &Sample) -> f64,
) -> Spread {
    Spread::of(
        ours.samples
            .iter()
            .zip(&peer.samples)
            .map(|(ours, peer)| compare(ours, peer)),
    )
}

/// Runs the jobs in turn, each so often before it counts and so often as it does.
pub(crate) fn take_turns(
    scratch: &Path,
    warm_ups: usize,
    runs: usize,
    jobs: &[Job<'_>],
) -> Result<Vec<Series>> {
    let mut series: Vec<_> = jobs
        .iter()
        .map(|job| Series {
            name: job.name.clone(),
            samples: Vec::with_capacity(runs),
        })
        .collect();
    for round in 0..warm_ups + runs {
        for (job, series) in jobs.iter().zip(&mut series) {
            let sample = job.run(scratch)?;
            if round >= warm_ups {
                series.samples.push(sample);
            }
        }
    }
    Ok(series)
}

/// Runs one job once and returns what it took.
pub(crate) fn once(scratch: &Path, job: &Job<'_>) -> Result<Series> {
    Ok(Series {
        name: job.name.clone(),
        samples: vec![job.run(scratch)?],
    })
}
