//! A store as guix-daemon has it, real derivations moved into it, and a stand-in for the real guix.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use fetcher::derivation::Derivation;
use store_index::address::{ContentAddress, Method};
use store_index::digest::{Algorithm, Digest, sha256};
use store_index::hash_text::parse;
use store_index::nix32;
use store_index::store_path::{FixedOutput, ItemName, compress, split_base_name};

use super::server::Server;
use super::{Outcome, Run, TestEnv, digest, repository};

/// What the stand-in for guix ends with.
pub(crate) const HANDED_OVER: i32 = 42;

/// The store that the real derivations were made for.
const REAL_STORE: &str = "/gnu/store";

/// The server that some of the real derivations name.
const REAL_SERVER: &str = "http://127.0.0.1:18733";

/// A store, `fetch` installed as `guix`, and the stand-in.
#[derive(Debug)]
pub(crate) struct GuixStore<'env> {
    env: &'env TestEnv,
    dir: PathBuf,
}

/// A derivation in the store.
#[derive(Clone, Debug)]
pub(crate) struct Drv {
    pub(crate) path: PathBuf,
    /// The path of its output.
    pub(crate) output: PathBuf,
}

impl<'env> GuixStore<'env> {
    pub(crate) fn new(env: &'env TestEnv) -> Self {
        env.open_to_everybody();
        let dir = env.path("gnu/store");
        fs_err::create_dir_all(dir.join(".links")).unwrap();
        // Build users may create files in it, as group of it.
        mode(&dir, 0o1777);
        symlink("fetch", env.path("bin/guix")).unwrap();
        let stand_in = env.write(
            "bin/real-guix",
            format!(
                "#!/bin/sh\n{{ printf 'argv'; printf ' <%s>' \"$@\"; echo; ls -ld \"$3\"; env; }} >{} 2>/dev/null\nexit {HANDED_OVER}\n",
                env.path("tmp/handed-over").display()
            ),
        );
        mode(&stand_in, 0o755);
        Self { env, dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes an item with any name.
    pub(crate) fn item(&self, base_name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.join(base_name);
        fs_err::write(&path, content).unwrap();
        mode(&path, 0o444);
        path
    }

    /// The path that a content address has under a name.
    pub(crate) fn fixed_path(&self, address: &ContentAddress, name: &str) -> PathBuf {
        let fixed = FixedOutput::new(self.dir.to_str().unwrap(), address);
        self.dir
            .join(fixed.base_name(&ItemName::new(name).unwrap()))
    }

    /// Adds a file as the flat fixed output of that name.
    pub(crate) fn flat_item(&self, algorithm: Algorithm, name: &str, content: &[u8]) -> PathBuf {
        let address = ContentAddress::new(Method::Flat, digest(algorithm, content)).unwrap();
        let path = self.fixed_path(&address, name);
        fs_err::write(&path, content).unwrap();
        mode(&path, 0o444);
        path
    }

    /// Puts a list of mirrors where the real derivations expect one: all but `gnu` and `sourceforge` are unknown.
    pub(crate) fn lists(&self, server: &Server) {
        let mirrors = format!(
            "((gnu \"{}\") (sourceforge \"{}/\" \"{}\"))",
            server.url("/gnu/"),
            server.url("/sf"),
            server.url("/sf2")
        );
        let publish = server.url("/file/");
        let by_hash = format!(
            "(begin (use-modules (guix base32)) (define (guix-publish base) (lambda (file algo hash) \
             (string-append base file \"/\" (symbol->string algo) \"/\" (bytevector->nix-base32-string hash)))) \
             (list (guix-publish \"{publish}\") (lambda (file algo hash) #f) (lambda (file algo hash) \
             (string-append \"{}\" (symbol->string algo) \":\" (bytevector->base16-string hash) \"/raw/\"))))",
            server.url("/content/")
        );
        self.item("0mxnx8l4fgigvd7gakwdk6hc6im4wnai-disarchive-mirrors", "()");
        for mirrors_name in [
            "qw8jnq1mlk8f8y6nnyk5p0h5m49dyymf-mirrors",
            "hdprrnsaa40vl1k63hnq7l1f012jzq2y-mirrors",
        ] {
            self.item(mirrors_name, &mirrors);
        }
        for by_hash_name in [
            "wg1yp2vx8gb7qmcgyibqnwblahpp4bjg-content-addressed-mirrors",
            "lv7dc09895a2d7cn0m6ysrdlgkhx5ld8-content-addressed-mirrors",
        ] {
            self.item(by_hash_name, &by_hash);
        }
    }

    /// Moves a real derivation into this store: with another hash, with this server in place of the one it was made
    /// with, and with these texts replaced by others. The output's path follows from that.
    pub(crate) fn derivation(
        &self,
        real: &str,
        hash: &Digest,
        server: Option<&Server>,
        replaced: &[(&str, &str)],
    ) -> Drv {
        let file = repository().join("testdata/drvs").join(real);
        let mut text = fs_err::read_to_string(file).unwrap();
        let old_hash = Derivation::parse(text.as_bytes()).unwrap().outputs[0]
            .hash
            .clone();
        text = text.replace(REAL_STORE, self.dir.to_str().unwrap());
        text = text.replace(&old_hash, &hash.to_hex());
        if let Some(server) = server {
            text = text.replace(REAL_SERVER, server.url("").trim_end_matches('/'));
            text = text.replace("http://zlib.net", server.url("").trim_end_matches('/'));
            text = text.replace("https://example.org", server.url("").trim_end_matches('/'));
        }
        for (old, new) in replaced {
            assert!(text.contains(old), "{real} has no {old}");
            text = text.replace(old, new);
        }
        let derivation = Derivation::parse(text.as_bytes()).unwrap();
        let old_output = derivation.outputs[0].path.clone();
        let base_name = old_output.rsplit('/').next().unwrap();
        let (_, name) = split_base_name(base_name).unwrap();
        let output = match derivation.fixed_output() {
            Some(Ok(output)) => self.fixed_path(&output.address, name),
            _ => PathBuf::from(&old_output),
        };
        let text = text.replace(&old_output, output.to_str().unwrap());
        Drv {
            path: self.drv(name, text.as_bytes()),
            output,
        }
    }

    /// Writes any text as a derivation.
    pub(crate) fn drv(&self, name: &str, text: &[u8]) -> PathBuf {
        let digest = nix32::encode(&compress(&sha256(text)));
        self.item(&format!("{digest}-{name}.drv"), text)
    }

    /// Runs us as the daemon runs `$GUIX`, with its environment, as a build user.
    pub(crate) fn perform(&self, drv: &Drv) -> Run<'env> {
        self.guix(["perform-download"])
            .arg(&drv.path)
            .arg(&drv.output)
            .by_nobody()
    }

    /// Runs us as the daemon runs `$GUIX`, as whoever runs the test.
    pub(crate) fn guix<const N: usize>(&self, args: [&str; N]) -> Run<'env> {
        self.env
            .run(&self.env.path("bin/guix"), args)
            .variable("NIX_STORE", &self.dir)
            .variable("_NIX_OPTIONS", options(&[]))
            .variable("FETCH_GUIX", self.env.path("bin/real-guix"))
            .umask(0o022)
    }

    /// What the stand-in for guix wrote: its arguments, whether its third argument was there, its environment.
    pub(crate) fn handed_over(&self) -> Option<String> {
        let record = self.env.path("tmp/handed-over");
        record
            .exists()
            .then(|| fs_err::read_to_string(record).unwrap())
    }
}

/// `_NIX_OPTIONS` as the daemon sets them, with some more.
pub(crate) fn options(more: &[&str]) -> String {
    let mut lines = vec![
        "build-fallback=0",
        "build-use-substitutes=false",
        "locale=C.UTF-8",
        "terminal-columns=80",
        "user-name=me",
    ];
    lines.extend(more);
    lines.sort_unstable();
    lines.join("\n") + "\n"
}

/// Returns the SHA-256 of bytes.
pub(crate) fn flat(bytes: &[u8]) -> Digest {
    digest(Algorithm::Sha256, bytes)
}

/// Reads an SRI hash.
pub(crate) fn of_sri(text: &str) -> Digest {
    parse(text, None).unwrap().digest
}

/// Sets permission bits.
pub(crate) fn mode(path: &Path, mode: u32) {
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

impl Outcome {
    /// Expects that nothing of these words was said.
    #[track_caller]
    pub(crate) fn does_not_say(self, words: &str) -> Self {
        let said = self.stderr.contains(words) || self.stdout.contains(words);
        assert!(!said, "{words:?} was said\n{self}");
        self
    }
}
