//! Many small files at once.

use std::fmt::Write as _;

use super::*;

/// What a small source has, or a patch that is not so small.
const FILE_BYTES: u64 = 20 * 1024;

pub(super) fn measure(bench: &Bench, folder: &Path) -> Result<Vec<Row>> {
    fs_err::create_dir(folder.join("www"))?;
    let server = Nginx::start(folder)?;
    let files = SmallFiles::new(bench, folder, &server)?;
    let prepare = || files.prepare();
    let jobs = [
        files.fetch().prepared_by(prepare),
        files.aria().prepared_by(prepare),
        files.curl("--parallel").prepared_by(prepare),
        files.curl_and_sha256sum().prepared_by(prepare),
    ];
    let series = bench.turns(3 * bench.sizes.long_runs, &jobs)?;
    let what = format!("{}, loopback http", files.what());
    let processor = format!("{what}, processor time");
    let [ours, aria, curl, checked] = &series[..] else {
        return Err("a series is missing".into());
    };
    let peak = |of: &Series, bound| {
        let what = format!("the same, peak memory of {}", of.name);
        Row::value(&what, mib(of.peak_bytes()), " MiB", bound)
    };
    Ok(vec![
        Row::times(&what, ours, curl, Bound::AtMost(1.1)).if_missed(TWO_INODES),
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

/// Files on a server, and what each program wants to know about them.
pub(super) struct SmallFiles<'a> {
    bench: &'a Bench,
    base_url: String,
    list: PathBuf,
    for_aria: PathBuf,
    for_curl: PathBuf,
    output: PathBuf,
}

impl<'a> SmallFiles<'a> {
    /// Puts them into `folder/www`, which that server serves.
    pub(super) fn new(bench: &'a Bench, folder: &Path, server: &Nginx) -> Result<Self> {
        let (mut list, mut for_aria, mut for_curl) = (String::new(), String::new(), String::new());
        for number in 0..bench.sizes.batch_files {
            let name = format!("file-{number}");
            let hash = fixtures::file(&folder.join("www").join(&name), FILE_BYTES, number)?;
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
        Ok(Self {
            bench,
            base_url: server.url(""),
            list: write("SHA256SUMS", &list)?,
            for_aria: write("aria2", &for_aria)?,
            for_curl: write("curl", &for_curl)?,
            output: folder.join("output"),
        })
    }

    pub(super) fn what(&self) -> String {
        let files = self.bench.sizes.batch_files;
        format!("{files} files of {}", in_words(FILE_BYTES))
    }

    /// Puts away what a run left.
    pub(super) fn prepare(&self) -> Result<()> {
        let folder = self.output.parent().ok_or("no folder")?;
        put_away(&self.bench.kept(), folder)?;
        put_away(&self.output, folder)?;
        Ok(fs_err::create_dir(&self.output)?)
    }

    pub(super) fn fetch<'j>(&self) -> Job<'j> {
        let words: [&OsStr; 9] = [
            self.bench.fetch.as_ref(),
            "batch".as_ref(),
            "--no-store".as_ref(),
            "--no-media".as_ref(),
            "--into".as_ref(),
            self.output.as_ref(),
            "--base-url".as_ref(),
            self.base_url.as_ref(),
            self.list.as_ref(),
        ];
        Job::new("fetch batch", words)
    }

    pub(super) fn aria<'j>(&self) -> Job<'j> {
        let line = "exec aria2c -q -j16 --no-conf -d \"$1\" -i \"$2\"";
        self.shell("`aria2c -j16 -i`", line, &self.for_aria)
    }

    /// `curl` with these options.
    pub(super) fn curl<'j>(&self, options: &str) -> Job<'j> {
        let line = format!("cd \"$1\" && exec curl -sS {options} --config \"$2\"");
        self.shell(&format!("`curl {options}`"), &line, &self.for_curl)
    }

    fn curl_and_sha256sum<'j>(&self) -> Job<'j> {
        let line =
            "cd \"$1\" && curl -sS --parallel --config \"$2\" && sha256sum --check --quiet \"$3\"";
        self.shell("`curl --parallel && sha256sum`", line, &self.for_curl)
    }

    fn shell<'j>(&self, name: &str, line: &str, input: &Path) -> Job<'j> {
        let args = [&self.output, input, &self.list].map(|path: &Path| path.as_os_str());
        Job::shell(name, line, args)
    }
}
