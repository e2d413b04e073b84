//! Whole trees: hashed where they are, and copied.

use super::*;

/// Nix's command line, as stable as its oldest version that has it.
const NIX: [&str; 7] = [
    "nix",
    "--extra-experimental-features",
    "nix-command",
    "hash",
    "path",
    "--type",
    "sha256",
];

pub(super) fn measure(bench: &Bench, folder: &Path) -> Result<Vec<Row>> {
    let files = bench.sizes.source_files;
    let tree = folder.join("tree");
    let bytes = fixtures::source_tree(&tree, files)?;
    let shown = format!("{} files, {:.2} GB", count(files), bytes as f64 / 1e9);
    rustix::fs::sync();
    fixtures::warm(&tree)?;
    let nix = || Job::new("`nix hash path`", NIX).with([tree.as_os_str()]);
    let printed = once(&bench.scratch, &nix())?;
    let hash = printed.samples[0].output.trim().to_owned();
    let check = |mode: &str, hash: &str, tree: &Path| {
        let mode = format!("--mode={mode}");
        let words: [&OsStr; 9] = [
            bench.fetch.as_ref(),
            "--no-store".as_ref(),
            "--no-media".as_ref(),
            "--offline".as_ref(),
            mode.as_ref(),
            "--hash".as_ref(),
            hash.as_ref(),
            "-o".as_ref(),
            tree.as_ref(),
        ];
        Job::new("fetch", words)
    };
    let git_id = git_id(&tree, folder)?;
    let fresh = folder.join("fresh.git");
    let git = || {
        let line = "cd \"$2\" && git init -q --bare \"$1\" && find . -type f \
                    | GIT_DIR=\"$1\" git hash-object --no-filters --stdin-paths";
        Job::shell("`git hash-object`", line, [&fresh, &tree]).prepared_by(|| clear(&fresh))
    };
    let jobs = [
        check("nar", &hash, &tree),
        nix(),
        check("git", &git_id, &tree),
        git(),
    ];
    let series = bench.turns(bench.sizes.long_runs, &jobs)?;
    let nar = format!("NAR hash of a tree, {shown}");
    let id = format!("git tree id, {shown}");
    let mut rows = vec![
        Row::faster(
            &format!("{nar}, warm"),
            &series[0],
            &series[1],
            Bound::AtLeast(1.4),
        ),
        Row::faster(&format!("{id}, warm"), &series[2], &series[3], Bound::None),
        Row::value(
            "NAR hash, peak memory",
            mib(series[0].peak_bytes()),
            " MiB",
            Bound::None,
        ),
    ];
    if fixtures::drop_caches() {
        let cold = |job: Job<'static>| {
            job.prepared_by(|| {
                fixtures::drop_caches();
                Ok(())
            })
        };
        let jobs = [
            cold(check("nar", &hash, &tree)),
            cold(Job::new("`nix hash path`", NIX).with([tree.as_os_str()])),
        ];
        let series = bench.turns(bench.sizes.long_runs.div_ceil(2), &jobs)?;
        rows.push(Row::faster(
            &format!("{nar}, cold"),
            &series[0],
            &series[1],
            Bound::AtLeast(2.0),
        ));
    } else {
        rows.push(Row::not_measured(
            &format!("{nar}, cold"),
            "only root can drop the page cache",
        ));
    }
    rows.push(copy(bench, folder, &tree, &hash, &shown)?);
    Ok(rows)
}

/// A verified copy of the tree out of a store that has it under another name.
fn copy(bench: &Bench, folder: &Path, tree: &Path, hash: &str, shown: &str) -> Result<Row> {
    use store_index::address::{ContentAddress, Method};
    use store_index::hash_text;
    use store_index::store_path::{FixedOutput, ItemName};
    let digest = hash_text::parse(hash, Some(store_index::digest::Algorithm::Sha256))?.digest;
    let address = ContentAddress::new(Method::Nar, digest).ok_or("no address")?;
    let base_name =
        FixedOutput::new(LOGICAL_STORE, &address).base_name(&ItemName::new("other-1.0")?);
    let (store, output, peer) = (
        folder.join("store"),
        folder.join("output"),
        folder.join("copy"),
    );
    fs_err::create_dir(&store)?;
    let item = store.join(base_name);
    fs_err::rename(tree, &item)?;
    let ours = bench
        .fetch_from_store(&store, &digest.to_sri(), &output)
        .with([OsStr::new("--mode=nar")])
        .prepared_by(|| clear_and_sync(&output));
    let line = format!("cp -r \"$1\" \"$2\" && {} \"$2\"", NIX.join(" "));
    let theirs = Job::shell("`cp -r && nix hash path`", &line, [&item, &peer])
        .prepared_by(|| clear_and_sync(&peer));
    let series = bench.turns(bench.sizes.long_runs.div_ceil(2), &[ours, theirs])?;
    let what = format!("verified copy of a tree, {shown}");
    Ok(Row::faster(&what, &series[0], &series[1], Bound::None))
}

/// Has git itself say what the tree's id is.
fn git_id(tree: &Path, folder: &Path) -> Result<String> {
    let index = folder.join("index.git");
    let line = "git init -q --bare \"$1\" && cd \"$2\" && export GIT_DIR=\"$1\" GIT_WORK_TREE=. \
                && git -c core.autocrlf=false add -A -f . && git write-tree";
    let done = Command::new("sh")
        .args(["-c", line, "sh"])
        .args([&index, tree])
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()?;
    if !done.status.success() {
        return Err(format!("git: {}", String::from_utf8_lossy(&done.stderr).trim()).into());
    }
    fs_err::remove_dir_all(&index)?;
    Ok(String::from_utf8(done.stdout)?.trim().to_owned())
}
