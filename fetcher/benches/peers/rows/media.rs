//! Media: indexing one, and asking ten.

use super::*;

pub(super) fn index(bench: &Bench, folder: &Path) -> Result<Vec<Row>> {
    let (root, index) = (folder.join("medium"), folder.join("index"));
    let files = bench.sizes.tree_files;
    let bytes = fixtures::tree(&root, files, bench.sizes.tree_bytes)?;
    fixtures::checksums(&root)?;
    fixtures::warm(&root)?;
    let cores = bench.cores.to_string();
    let ours = |name: &str, options: &[&str]| {
        let words = [
            bench.store_index.as_os_str(),
            "update".as_ref(),
            "--media".as_ref(),
            root.as_os_str(),
            "--index".as_ref(),
            index.as_os_str(),
        ];
        Job::new(name, words)
            .with(options.iter().map(OsStr::new))
            .prepared_by(|| clear_and_sync(&index))
    };
    let peer = |name, program| {
        let line = format!("find \"$1\" -type f -print0 | xargs -0 -P \"$2\" -n 32 {program}");
        Job::shell(name, &line, [root.as_os_str(), cores.as_ref()])
            .prepared_by(|| clear_and_sync(&index))
    };
    let jobs = [
        ours("by the list", &[]),
        ours("`--hash-all`", &["--hash-all"]),
        peer("`xargs -P openssl`", "openssl dgst -sha256"),
        peer("`xargs -P sha256sum`", "sha256sum"),
    ];
    let series = bench.turns(bench.sizes.long_runs.div_ceil(2), &jobs)?;
    let shown = format!("{:.1} GB in {} files", bytes as f64 / 1e9, count(files));
    let (listed, all) = (
        format!("medium of {shown}, warm: by its checksum list"),
        format!("medium of {shown}, warm: all read"),
    );
    Ok(vec![
        Row::faster(&listed, &series[0], &series[2], Bound::None),
        Row::faster(&listed, &series[0], &series[3], Bound::None),
        Row::faster(&all, &series[1], &series[2], Bound::None),
        Row::faster(&all, &series[1], &series[3], Bound::None),
    ])
}

pub(super) fn lookup(bench: &Bench, folder: &Path) -> Result<Vec<Row>> {
    const MEDIA: u64 = 10;
    let files = bench.sizes.medium_files;
    let output = folder.join("output");
    let content = [9; 1024];
    let hash = format!("sha256:{}", hex(&store_index::digest::sha256(&content)));
    for number in 0..MEDIA {
        let (root, index) = (
            folder.join(format!("medium-{number}")),
            folder.join(format!("indexes/{number}")),
        );
        fs_err::create_dir(&root)?;
        fs_err::create_dir_all(folder.join("indexes"))?;
        if number == MEDIA - 1 {
            fs_err::write(root.join("other-name-1.0.tar.gz"), content)?;
        }
        fixtures::folder_index(&index, &root, number * files, files)?;
    }
    let indexes = folder.join("indexes");
    let fetch = |name: &str, indexes: &Path| {
        let words: [&OsStr; 11] = [
            bench.fetch.as_ref(),
            "--no-store".as_ref(),
            "--no-media".as_ref(),
            "--offline".as_ref(),
            "--stale-hash=ignore".as_ref(),
            "--hash".as_ref(),
            hash.as_ref(),
            "-o".as_ref(),
            output.as_ref(),
            "--index".as_ref(),
            indexes.as_ref(),
        ];
        Job::new(name, words).prepared_by(|| clear(&output))
    };
    let last = indexes.join((MEDIA - 1).to_string());
    let jobs = [
        fetch("fetch", &indexes),
        Job::new("/bin/true", ["/bin/true"]),
        fetch("one medium", &last),
    ];
    let series = bench.turns(bench.sizes.short_runs, &jobs)?;
    let what = format!(
        "local hit, 1 KiB, on the last of ten media of {} files",
        count(files)
    );
    Ok(vec![
        Row::above(&what, &series[0], &series[1], Bound::None),
        Row::above(&what, &series[0], &series[2], Bound::None),
    ])
}
