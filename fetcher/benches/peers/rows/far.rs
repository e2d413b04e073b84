//! Servers that are far away, over a wire of our own.

use std::cell::Cell;
use std::time::Duration;

use super::batch::SmallFiles;
use super::*;
use crate::wire::{Quality, SERVER, Wire};

/// Half of the round trip of 40 ms: to the other side of a continent.
const DELAY: Duration = Duration::from_millis(20);

/// 100 Mbit/s, in bytes.
const LINE: u64 = 12_500_000;

/// What the last run left on the wire arrives before the next one begins.
const SETTLE: Duration = Duration::from_millis(200);

/// A line without losses.
const CLEAN: Quality = Quality {
    delay: DELAY,
    bytes_per_second: Some(LINE),
    loss: 0.0,
};

/// The same with losses.
const LOSSY: Quality = Quality {
    loss: 0.01,
    ..CLEAN
};

/// A line that is never full, so that nothing counts but the way.
const WIDE: Quality = Quality {
    bytes_per_second: None,
    ..CLEAN
};

pub(super) fn measure(bench: &Bench, folder: &Path) -> Result<Vec<Row>> {
    fs_err::create_dir(folder.join("www"))?;
    let len = bench.sizes.far_bytes;
    let digest = fixtures::file(&folder.join("www/file"), len, 3)?;
    let one = OneFile {
        bench,
        folder,
        what: format!("{} MB, 40 ms", len / 1_000_000),
        digest,
    };
    let mut rows = over(folder, LOSSY, &one.what, |wire, server| {
        one.lossy(wire, server)
    })?;
    rows.extend(over(folder, CLEAN, &one.what, |wire, server| {
        one.clean(wire, server)
    })?);
    rows.extend(over(folder, WIDE, "small files", |wire, server| {
        small_files(bench, folder, wire, server)
    })?);
    Ok(rows)
}

/// Measures in the client's network what a server in the other one gives.
fn over(
    folder: &Path,
    quality: Quality,
    what: &str,
    measure: impl Fn(&Wire, &Nginx) -> Result<Vec<Row>> + Sync,
) -> Result<Vec<Row>> {
    let wire = match Wire::new(quality) {
        Ok(wire) => wire,
        Err(error) => return Ok(vec![Row::not_measured(what, &error.to_string())]),
    };
    let as_text = |error: Box<dyn std::error::Error>| error.to_string();
    let start = || Nginx::at(SERVER, folder).map_err(as_text);
    let server = wire.server.within(start)?;
    let measured = || measure(&wire, &server).map_err(as_text);
    Ok(wire.client.within(measured)?)
}

/// Prepares each run of a job; in its n-th run the same packets are lost as in the n-th of all others.
fn on_wire<'a>(
    wire: &'a Wire,
    prepare: impl Fn() -> Result<()> + 'a,
) -> impl Fn() -> Result<()> + 'a {
    let run = Cell::new(0);
    move || {
        prepare()?;
        std::thread::sleep(SETTLE);
        wire.begin_anew(run.replace(run.get() + 1));
        Ok(())
    }
}

struct OneFile<'a> {
    bench: &'a Bench,
    folder: &'a Path,
    what: String,
    digest: String,
}

impl OneFile<'_> {
    fn prepare(&self) -> Result<()> {
        clear(&self.bench.kept())?;
        clear(&self.folder.join("output"))?;
        clear(&self.folder.join("peer"))
    }

    fn fetch<'j>(&'j self, wire: &'j Wire, url: &str) -> Job<'j> {
        let (address, output) = (
            format!("sha256:{}", self.digest),
            self.folder.join("output"),
        );
        let words: [&OsStr; 8] = [
            self.bench.fetch.as_ref(),
            "--no-store".as_ref(),
            "--no-media".as_ref(),
            "--hash".as_ref(),
            address.as_ref(),
            "-o".as_ref(),
            output.as_ref(),
            url.as_ref(),
        ];
        Job::new("fetch", words).prepared_by(on_wire(wire, || self.prepare()))
    }

    /// A line for the shell, with the URL, the folder and the digest.
    fn peer<'j>(&'j self, wire: &'j Wire, url: &str, name: &str, line: &str) -> Job<'j> {
        let args = [url.as_ref(), self.folder.as_os_str(), self.digest.as_ref()];
        Job::shell(name, line, args).prepared_by(on_wire(wire, || self.prepare()))
    }

    fn curl_and_openssl<'j>(&'j self, wire: &'j Wire, url: &str) -> Job<'j> {
        let line = "curl -sS -o \"$2/peer\" \"$1\" && openssl dgst -sha256 \"$2/peer\"";
        self.peer(wire, url, "`curl -o && openssl dgst`", line)
    }

    fn lossy(&self, wire: &Wire, server: &Nginx) -> Result<Vec<Row>> {
        let url = server.url("file");
        let aria = "exec aria2c -q --no-conf -x8 -s8 -k1M --file-allocation=none --checksum=sha-256=\"$3\" -d \"$2\" -o peer \"$1\"";
        let jobs = [
            self.fetch(wire, &url),
            self.peer(wire, &url, "`aria2c -x8`", aria),
        ];
        let mut series = self.bench.turns(self.bench.sizes.far_runs, &jobs)?;
        // One connection takes five times as long: once is enough.
        let curl = self.curl_and_openssl(wire, &url);
        series.push(once(&self.bench.scratch, &curl)?);
        let what = format!("a slow, lossy path ({}, 1 % loss, cubic)", self.what);
        let (processor, memory) = (
            format!("{what}, processor time"),
            format!("{what}, peak memory"),
        );
        let mut rows = vec![
            Row::times(&what, &series[0], &series[1], Bound::AtMost(1.5)),
            Row::times(&what, &series[0], &series[2], Bound::None),
        ];
        for peer in &series[1..] {
            rows.push(Row::cpu(&processor, &series[0], peer, Bound::None));
            rows.push(Row::memory(&memory, &series[0], peer));
        }
        Ok(rows)
    }

    fn clean(&self, wire: &Wire, server: &Nginx) -> Result<Vec<Row>> {
        let url = server.url("file");
        let bare = "exec curl -sS -o \"$2/peer\" \"$1\"";
        let jobs = [
            self.fetch(wire, &url),
            self.curl_and_openssl(wire, &url),
            self.peer(wire, &url, "`curl -o`", bare),
        ];
        let series = self.bench.turns(self.bench.sizes.long_runs, &jobs)?;
        let what = format!("a clean path ({}, 100 Mbit/s)", self.what);
        let processor = format!("{what}, processor time");
        let mut rows = Vec::new();
        for peer in &series[1..] {
            rows.push(Row::times(&what, &series[0], peer, Bound::AtMost(1.05)));
        }
        for peer in &series[1..] {
            rows.push(Row::cpu(&processor, &series[0], peer, Bound::None));
        }
        Ok(rows)
    }
}

/// Why the small files take longer.
const FEWER_AT_A_TIME: &str = "`curl` has 50 of them under way, `fetch batch` 25, as many as Nix: more from one server is what servers take for an attack. \
                               Who may have more says so (`--jobs`).";

fn small_files(bench: &Bench, folder: &Path, wire: &Wire, server: &Nginx) -> Result<Vec<Row>> {
    let files = SmallFiles::new(bench, folder, server)?;
    let jobs = [
        files.fetch(),
        files.curl("--parallel"),
        files.curl("--parallel --parallel-max 16"),
        files.aria(),
    ]
    .map(|job| job.prepared_by(on_wire(wire, || files.prepare())));
    let series = bench.turns(bench.sizes.far_runs, &jobs)?;
    let what = format!("{}, 40 ms away", files.what());
    let bounds = [Bound::AtMost(1.1), Bound::None, Bound::None];
    let pairs = series[1..].iter().zip(bounds);
    Ok(pairs
        .map(|(peer, bound)| Row::times(&what, &series[0], peer, bound).if_missed(FEWER_AT_A_TIME))
        .collect())
}
