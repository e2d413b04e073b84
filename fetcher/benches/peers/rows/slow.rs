//! One file over a path that gives each connection little.

use super::*;
use crate::slow_path::SlowPath;

pub(super) fn measure(bench: &Bench, folder: &Path) -> Result<Vec<Row>> {
    let (output, peer) = (folder.join("output"), folder.join("peer"));
    fs_err::create_dir(folder.join("www"))?;
    let len = bench.sizes.slow_bytes;
    let hash = fixtures::file(&folder.join("www/file"), len, 3)?;
    let server = Nginx::start(folder)?;
    let path = SlowPath::to(server.address())?;
    let url = path.url("file");
    let kept = bench.scratch.join("cache/fetch");
    let prepare = || {
        path.begin_anew();
        clear(&kept)?;
        clear(&output)?;
        clear(&peer)
    };
    let address = format!("sha256:{hash}");
    let words: [&OsStr; 8] = [
        bench.fetch.as_ref(),
        "--no-store".as_ref(),
        "--no-media".as_ref(),
        "--hash".as_ref(),
        address.as_ref(),
        "-o".as_ref(),
        output.as_ref(),
        url.as_ref(),
    ];
    let shell = |name, line| {
        let args = [OsStr::new(&url), folder.as_os_str(), OsStr::new(&hash)];
        Job::shell(name, line, args).prepared_by(prepare)
    };
    let jobs = [
        Job::new("fetch", words).prepared_by(prepare),
        shell(
            "`aria2c -x8`",
            "exec aria2c -q --no-conf -x8 -s8 -k1M --file-allocation=none --max-tries=0 --retry-wait=1 \
             --checksum=sha-256=\"$3\" -d \"$2\" -o peer \"$1\"",
        ),
        shell(
            "`curl --retry`",
            "curl -sS --retry 20 --retry-all-errors --retry-delay 1 -C - -o \"$2/peer\" \"$1\" && openssl dgst -sha256 \"$2/peer\"",
        ),
    ];
    let series = bench.turns(bench.sizes.long_runs, &jobs)?;
    let what = format!("{} over a slow path that breaks off", in_words(len));
    let processor = format!("{what}, processor time");
    let memory = format!("{what}, peak memory");
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
