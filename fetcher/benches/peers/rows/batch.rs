//! Many small files at once.

use std::fmt::Write as _;

use super::*;

/// What a small source has, or a patch that is not so small.
const FILE_BYTES: u64 = 20 * 1024;

pub(super) fn measure(bench: &Bench, folder: &Path) -> Result<Vec<Row>> {
    let files = bench.sizes.batch_files;
    let www = folder.join("www");
    fs_err::create_dir(&www)?;
    let server = Nginx::start(folder)?;
    let (mut list, mut for_aria, mut for_curl) = (String::new(), String::new(), String::new());
    for number in 0..files {
        let name = format!("file-{number}");
        let hash = fixtures::file(&www.join(&name), FILE_BYTES, number)?;
        let url = server.url(&name);
        writeln!(list, "{hash}  {name}")?;
        writeln!(for_aria, "{url}\n\tout={name}\n\tchecksum=sha-256={hash}")?;
        writeln!(for_curl, "url = \"{url}\"\noutput = \"{name}\"")?;
    }
    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let path = folder.join(name);
        fs_err::write(&path, text)?;
        Ok(path)
    };
    let list = write("SHA256SUMS", &list)?;
    let (for_aria, for_curl) = (write("aria2", &for_aria)?, write("curl", &for_curl)?);
    let output = folder.join("output");
    let kept = bench.scratch.join("cache/fetch");
    let prepare = || {
        clear(&kept)?;
        clear_and_sync(&output)?;
        Ok(fs_err::create_dir(&output)?)
    };
    let base = server.url("");
    let words: [&OsStr; 9] = [
        bench.fetch.as_ref(),
        "batch".as_ref(),
        "--no-store".as_ref(),
        "--no-media".as_ref(),
        "--into".as_ref(),
        output.as_ref(),
        "--base-url".as_ref(),
        base.as_ref(),
        list.as_ref(),
    ];
    let shell = |name, line, input: &Path| {
        let args = [output.as_os_str(), input.as_os_str(), list.as_os_str()];
        Job::shell(name, line, args).prepared_by(prepare)
    };
    let jobs = [
        Job::new("fetch batch", words).prepared_by(prepare),
        shell(
            "`aria2c -j16 -i`",
            "exec aria2c -q -j16 --no-conf -d \"$1\" -i \"$2\"",
            &for_aria,
        ),
        shell(
            "`curl --parallel`",
            "cd \"$1\" && exec curl -sS --parallel --config \"$2\"",
            &for_curl,
        ),
        shell(
            "`curl --parallel && sha256sum`",
            "cd \"$1\" && curl -sS --parallel --config \"$2\" && sha256sum --check --quiet \"$3\"",
            &for_curl,
        ),
    ];
    let series = bench.turns(3 * bench.sizes.long_runs, &jobs)?;
    let what = format!("{files} files of {}, loopback http", in_words(FILE_BYTES));
    let processor = format!("{what}, processor time");
    let [ours, aria, curl, checked] = &series[..] else {
        return Err("a series is missing".into());
    };
    let peak = |of: &Series, bound| {
        let what = format!("the same, peak memory of {}", of.name);
        Row::value(&what, mib(of.peak_bytes()), " MiB", bound)
    };
    Ok(vec![
        Row::times(&what, ours, curl, Bound::AtMost(1.1)),
        Row::times(&what, ours, checked, Bound::None),
        Row::times(&what, ours, aria, Bound::None),
        Row::cpu(&processor, ours, curl, Bound::None),
        Row::cpu(&processor, ours, checked, Bound::None),
        Row::cpu(&processor, ours, aria, Bound::None),
        peak(ours, Bound::AtMost(64.0)),
        peak(aria, Bound::None),
        peak(curl, Bound::None),
    ])
}
