//! Measures our programs side by side with what people would use instead: `tests/bench`.
//!
//! Run by `cargo bench`, with options behind `--`: `--quick` takes small sizes, to see that everything works; `--only
//! TEXT` measures the groups whose names contain it; `--write FILE` writes the page.

mod child;
mod fixtures;
mod measure;
mod nginx;
mod nix_builds;
#[path = "../../../tests/support/relay.rs"]
#[expect(dead_code, reason = "the tests also count connections")]
mod relay;
mod report;
mod rows;
#[path = "../../../tests/support/wire.rs"]
#[expect(dead_code, reason = "the tests also count bytes, and let it go dark")]
mod wire;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use rows::{Bench, Sizes};

/// Whatever goes wrong here ends the run, with its text.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[derive(Debug, Default)]
struct Options {
    quick: bool,
    only: Vec<String>,
    write: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.split_first() {
        Some((first, rest)) if first == "--child" => child::run(rest),
        // `cargo test --benches` comes without: it wants to know that we build.
        _ if !args.iter().any(|arg| arg == "--bench") => Ok(()),
        _ => options(&args).and_then(|options| run(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn options(args: &[String]) -> Result<Options> {
    let mut options = Options::default();
    let mut args = args.iter().filter(|arg| *arg != "--bench");
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} wants a value"));
        match arg.as_str() {
            "--quick" => options.quick = true,
            "--only" => options.only.push(value()?.clone()),
            "--write" => options.write = Some(value()?.into()),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Result<()> {
    let scratch = tempfile::Builder::new().prefix("fetch-bench-").tempdir()?;
    let machine = report::machine(scratch.path());
    let sizes = if options.quick {
        Sizes::QUICK
    } else {
        Sizes::FULL
    };
    let bench = Bench::new(scratch.path(), sizes)?;
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    writeln!(std::io::stdout(), "{}", report::HEAD)?;
    for group in rows::GROUPS {
        if !(options.only.is_empty() || options.only.iter().any(|text| group.name.contains(text))) {
            continue;
        }
        let folder = scratch.path().join(group.name);
        fs_err::create_dir(&folder)?;
        for row in
            (group.measure)(&bench, &folder).map_err(|error| format!("{}: {error}", group.name))?
        {
            writeln!(std::io::stdout(), "{}", row.line())?;
            rows.push(row);
        }
        fs_err::remove_dir_all(&folder)?;
        notes.push(group.how);
        // After each group: a run that is cut short leaves what it has.
        if let Some(path) = &options.write {
            fs_err::write(path, report::page(&rows, &machine, &notes))?;
        }
    }
    Ok(())
}
