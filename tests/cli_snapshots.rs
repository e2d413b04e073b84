//! What people see: stdout, stderr and exit code, word for word.

use crate::support::nix::{NIX, NixStore};
use crate::support::server::{Answer, Server};
use crate::support::{Outcome, TestEnv, lacks};

const HELLO: &str = "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=";

/// Replaces in the snapshots of a test what differs from run to run.
fn filtered(env: &TestEnv) -> insta::internals::SettingsBindDropGuard {
    let mut settings = insta::Settings::clone_current();
    for (pattern, replacement) in env.filters() {
        settings.add_filter(&pattern, replacement);
    }
    settings.bind_to_scope()
}

/// Exit code, stdout and stderr as they are compared.
fn shown(outcome: Outcome) -> String {
    let mut text = match outcome.status.code() {
        Some(code) => format!("exit {code}\n"),
        None => format!("{}\n", outcome.status),
    };
    for (name, content) in [("stdout", &outcome.stdout), ("stderr", &outcome.stderr)] {
        if !content.is_empty() {
            text.push_str(&format!("--- {name}\n{content}"));
        }
    }
    text
}

/// A folder with one file in it and the index of that folder.
fn indexed_folder(env: &TestEnv) -> std::path::PathBuf {
    env.write("folder/greeting/hello.txt", "hello\n");
    let index = env.path("index");
    let update = env.store_index(["update", "--index"]).arg(&index);
    update.arg(env.path("folder")).go().exits(0);
    index
}

#[test]
fn help() {
    let env = TestEnv::new();
    let _filtered = filtered(&env);
    insta::assert_snapshot!(shown(env.fetch(["--help"]).go()), @r#"
    exit 0
    --- stdout
    Fetches content by hash: copies what this machine already has, under whatever name, and downloads
    only the rest.

    Asked in this order: the output itself, the store under the expected names, its .links, local git
    repositories, the store under any name, earlier downloads, indexed folders and media, and last the
    mirrors and the URLs. Whatever is found is hashed as it lands; only the right content becomes the
    output. Standard output carries the output's path.

    Usage: fetch [OPTIONS] [URL]...
           fetch <COMMAND>

    Commands:
      prefetch          Puts a source into the store under the name that a build will use; tells its
                        path and hash
      add-fixed         Gives derivations the fixed outputs whose content is here under other names
      batch             Fetches everything that a sources.json or a list of checksums names
      explain           Shows what each local source says to a hash; opens no socket and reads no
                        content
      cache             Says what is kept between runs, and removes it
      perform-download  Downloads what a derivation wants, for guix-daemon, which calls us guix ($GUIX)
      builder           Runs as the builder of a Nix derivation, whose attributes say what is wanted
      completions       Prints a script that completes the command line
      man               Writes the manual pages into a directory
      help              Print this message or the help of the given subcommand(s)

    Arguments:
      [URL]...
              Where the network has it, tried in this order: http://, https:// and mirror://SITE/PATH

    Options:
          --hash <HASH>
              What is wanted: SRI, algo:hex|nix-base32|base64, a bare digest or a SWHID

          --mode <METHOD>
              What is hashed: flat (a file's bytes), nar (file or tree; also "recursive") or git
              [default: flat; nar with --git or --unpack]

          --unpack
              Unpack what the URL has (tar, zip, NAR): the hash is the NAR hash of the tree in it,
              without a single top directory; the default NAME keeps its ending

          --hash-algo <ALGORITHM>
              The algorithm of a bare digest: md5, sha1, sha256, sha512 or blake3

          --name <NAME>
              The name of the store item [default: the last part of the first URL]

          --git <URL>
              A git repository, by https, http, git, ssh or file: the tree of a commit is wanted

          --rev <REV>
              With --git: the commit's full id, a tag or a branch

          --submodules
              With --git: submodules too, which are empty directories otherwise

      -o, --output <PATH>
              Where it goes [default: ./NAME]; '-' is standard output, after verification

          --executable
              Make the output executable

          --force
              Replace a file or symbolic link that stands at the output

          --add
              Also add the output to the store, under NAME

      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Where to look:
          --store <DIR[=REAL]>
              A store; paths are computed with DIR, files read below REAL [default: $NIX_STORE_DIR,
              $NIX_STORE, /gnu/store, /nix/store]

          --index <DIR>
              An index, or a folder of indexes; its root counts as named too

          --media <DIR>
              A folder or medium; a network or FUSE mount below it must be named itself [default: discs,
              images of discs and removable disks that are mounted]

          --mirror <URL>
              A server that names files by their hashes: ALGORITHM/HEX, ALGORITHM/NIX32 or as `guix
              publish` does; asked before the URLs

          --archive <NAME[=URL]>
              A public archive, asked last, which tells it the hash: software-heritage or
              internet-archive (a copy of the first URL)

          --no-store
              No store but those named

          --no-media
              No medium but those named

          --no-local
              No local source at all

    Network:
          --offline
              Open no socket

          --stale-hash <WHAT>
              Local content whose name has another version than asked for: auto (the network decides;
              used offline), refuse or ignore

          --connect-timeout <SECONDS>
              Longest time to connect [default: 15]

          --first-byte-timeout <SECONDS>
              Longest wait for the first byte [default: 120]

          --stall-timeout <SECONDS>
              Give up when less than 1 KiB/s came for so long [default: 30]

          --max-bytes <BYTES>
              Longest download, and the most that is unpacked from one [default: 68719476736, 64 GiB]

          --retry-budget <SECONDS>
              Longest wait between tries, all in all; 0 asks each URL once [default: 120]

          --connections <NUMBER>
              Most connections to one host, for a large file that comes slowly by one [default: 8]

          --lock <WHAT>
              While another process downloads the same content: wait, fail, or wait so many seconds
              [default: wait]

          --keep-wrong <DIR>
              Keep complete bodies that turn out to be wrong in this folder, for a look; it is made if
              it is not there

          --keep-copies
              Keep a copy of what is downloaded, which serves later requests wherever the output has
              gone (fetch cache)

    Output:
          --metrics <FILE>
              Add counts, bytes and times to a file for Prometheus

          --json
              Print one JSON object instead of the path

          --progress <HOW>
              How progress is shown on standard error: auto, bar, plain, json or none

      -q, --quiet
              Say nothing but errors

      -v, --verbose
              Say what each source answered

    Each option has an environment variable FETCH_<OPTION> (FETCH_STORE, FETCH_OFFLINE=1, ...); lists of
    paths are separated by ':', lists of URLs by blanks, and an empty variable counts as not set.
    Options win, then variables, then ~/.config/fetch/fetch.toml, then /etc/fetch/fetch.toml.

    Exit codes:
      0    the output is there and verified
      2    usage: bad hash, bad option, no usable URL left
      3    not found: no local source has it, and every server asked said so
      4    mismatch: a server delivered something else, and nothing had the right content
      5    network: a server could not be asked, or broke off
      6    another process downloads the same content (--lock)
      7    local trouble: permission, disk full, the output exists
      130  interrupted, cleaned up
    "#);
    insta::assert_snapshot!(shown(env.fetch(["-h"]).go()), @r#"
    exit 0
    --- stdout
    Fetches content by hash: copies what this machine already has, under whatever name, and downloads
    only the rest

    Usage: fetch [OPTIONS] [URL]...
           fetch <COMMAND>

    Commands:
      prefetch          Puts a source into the store under the name that a build will use; tells its
                        path and hash
      add-fixed         Gives derivations the fixed outputs whose content is here under other names
      batch             Fetches everything that a sources.json or a list of checksums names
      explain           Shows what each local source says to a hash; opens no socket and reads no
                        content
      cache             Says what is kept between runs, and removes it
      perform-download  Downloads what a derivation wants, for guix-daemon, which calls us guix ($GUIX)
      builder           Runs as the builder of a Nix derivation, whose attributes say what is wanted
      completions       Prints a script that completes the command line
      man               Writes the manual pages into a directory
      help              Print this message or the help of the given subcommand(s)

    Arguments:
      [URL]...  Where the network has it, tried in this order: http://, https:// and mirror://SITE/PATH

    Options:
          --hash <HASH>            What is wanted: SRI, algo:hex|nix-base32|base64, a bare digest or a
                                   SWHID
          --mode <METHOD>          What is hashed: flat (a file's bytes), nar (file or tree; also
                                   "recursive") or git [default: flat; nar with --git or --unpack]
          --unpack                 Unpack what the URL has (tar, zip, NAR): the hash is the NAR hash of
                                   the tree in it, without a single top directory; the default NAME
                                   keeps its ending
          --hash-algo <ALGORITHM>  The algorithm of a bare digest: md5, sha1, sha256, sha512 or blake3
          --name <NAME>            The name of the store item [default: the last part of the first URL]
          --git <URL>              A git repository, by https, http, git, ssh or file: the tree of a
                                   commit is wanted
          --rev <REV>              With --git: the commit's full id, a tag or a branch
          --submodules             With --git: submodules too, which are empty directories otherwise
      -o, --output <PATH>          Where it goes [default: ./NAME]; '-' is standard output, after
                                   verification
          --executable             Make the output executable
          --force                  Replace a file or symbolic link that stands at the output
          --add                    Also add the output to the store, under NAME
      -h, --help                   Print help (see more with '--help')
      -V, --version                Print version

    Where to look:
          --store <DIR[=REAL]>    A store; paths are computed with DIR, files read below REAL [default:
                                  $NIX_STORE_DIR, $NIX_STORE, /gnu/store, /nix/store]
          --index <DIR>           An index, or a folder of indexes; its root counts as named too
          --media <DIR>           A folder or medium; a network or FUSE mount below it must be named
                                  itself [default: discs, images of discs and removable disks that are
                                  mounted]
          --mirror <URL>          A server that names files by their hashes: ALGORITHM/HEX,
                                  ALGORITHM/NIX32 or as `guix publish` does; asked before the URLs
          --archive <NAME[=URL]>  A public archive, asked last, which tells it the hash:
                                  software-heritage or internet-archive (a copy of the first URL)
          --no-store              No store but those named
          --no-media              No medium but those named
          --no-local              No local source at all

    Network:
          --offline                       Open no socket
          --stale-hash <WHAT>             Local content whose name has another version than asked for:
                                          auto (the network decides; used offline), refuse or ignore
          --connect-timeout <SECONDS>     Longest time to connect [default: 15]
          --first-byte-timeout <SECONDS>  Longest wait for the first byte [default: 120]
          --stall-timeout <SECONDS>       Give up when less than 1 KiB/s came for so long [default: 30]
          --max-bytes <BYTES>             Longest download, and the most that is unpacked from one
                                          [default: 68719476736, 64 GiB]
          --retry-budget <SECONDS>        Longest wait between tries, all in all; 0 asks each URL once
                                          [default: 120]
          --connections <NUMBER>          Most connections to one host, for a large file that comes
                                          slowly by one [default: 8]
          --lock <WHAT>                   While another process downloads the same content: wait, fail,
                                          or wait so many seconds [default: wait]
          --keep-wrong <DIR>              Keep complete bodies that turn out to be wrong in this folder,
                                          for a look; it is made if it is not there
          --keep-copies                   Keep a copy of what is downloaded, which serves later requests
                                          wherever the output has gone (fetch cache)

    Output:
          --metrics <FILE>  Add counts, bytes and times to a file for Prometheus
          --json            Print one JSON object instead of the path
          --progress <HOW>  How progress is shown on standard error: auto, bar, plain, json or none
      -q, --quiet           Say nothing but errors
      -v, --verbose         Say what each source answered

    Each option has an environment variable FETCH_<OPTION> (FETCH_STORE, FETCH_OFFLINE=1, ...); lists of
    paths are separated by ':', lists of URLs by blanks, and an empty variable counts as not set.
    Options win, then variables, then ~/.config/fetch/fetch.toml, then /etc/fetch/fetch.toml.

    Exit codes:
      0    the output is there and verified
      2    usage: bad hash, bad option, no usable URL left
      3    not found: no local source has it, and every server asked said so
      4    mismatch: a server delivered something else, and nothing had the right content
      5    network: a server could not be asked, or broke off
      6    another process downloads the same content (--lock)
      7    local trouble: permission, disk full, the output exists
      130  interrupted, cleaned up
    "#);
    insta::assert_snapshot!(shown(env.fetch(["explain", "--help"]).go()), @r#"
    exit 0
    --- stdout
    Shows what each local source says to a hash; opens no socket and reads no content

    Usage: fetch explain [OPTIONS] <HASH> [URL]...

    Arguments:
      <HASH>    What is wanted, as with --hash
      [URL]...  Where the network has it, tried in this order: http://, https:// and mirror://SITE/PATH

    Options:
          --mode <METHOD>          What is hashed: flat (a file's bytes), nar (file or tree; also
                                   "recursive") or git [default: flat; nar with --git or --unpack]
          --unpack                 Unpack what the URL has (tar, zip, NAR): the hash is the NAR hash of
                                   the tree in it, without a single top directory; the default NAME
                                   keeps its ending
          --hash-algo <ALGORITHM>  The algorithm of a bare digest: md5, sha1, sha256, sha512 or blake3
          --name <NAME>            The name of the store item [default: the last part of the first URL]
          --git <URL>              A git repository, by https, http, git, ssh or file: the tree of a
                                   commit is wanted
          --rev <REV>              With --git: the commit's full id, a tag or a branch
          --submodules             With --git: submodules too, which are empty directories otherwise
      -h, --help                   Print help

    Where to look:
          --store <DIR[=REAL]>    A store; paths are computed with DIR, files read below REAL [default:
                                  $NIX_STORE_DIR, $NIX_STORE, /gnu/store, /nix/store]
          --index <DIR>           An index, or a folder of indexes; its root counts as named too
          --media <DIR>           A folder or medium; a network or FUSE mount below it must be named
                                  itself [default: discs, images of discs and removable disks that are
                                  mounted]
          --mirror <URL>          A server that names files by their hashes: ALGORITHM/HEX,
                                  ALGORITHM/NIX32 or as `guix publish` does; asked before the URLs
          --archive <NAME[=URL]>  A public archive, asked last, which tells it the hash:
                                  software-heritage or internet-archive (a copy of the first URL)
          --no-store              No store but those named
          --no-media              No medium but those named
          --no-local              No local source at all

    Output:
          --json            Print one JSON object instead of the path
          --progress <HOW>  How progress is shown on standard error: auto, bar, plain, json or none
      -q, --quiet           Say nothing but errors
      -v, --verbose         Say what each source answered
    "#);
    insta::assert_snapshot!(shown(env.store_index(["--help"]).go()), @r"
    exit 0
    --- stdout
    Finds content by hash in Nix and Guix stores, folders and media

    Usage: store-index [OPTIONS] <COMMAND>

    Commands:
      update       Read what is new, drop what is gone
      lookup       Say where content is
      status       List the indexes and how fresh they are
      check        Check indexes against themselves, with --content against the files
      media        List the media that are remembered, name them, forget them
      completions  Print a script that completes the command line
      man          Write the manual pages into a directory
      help         Print this message or the help of the given subcommand(s)

    Options:
      -q, --quiet
              Say nothing but results and errors

      -v, --verbose
              Say more

          --progress <STYLE>
              How to show progress on standard error

              Possible values:
              - auto:  A bar on a terminal, plain lines elsewhere
              - bar:   A bar
              - plain: A line now and then
              - json:  JSON objects, one a line
              - none:  Nothing

      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Each option can be given as an environment variable, FETCH_STORE for --store and so on; lists of
    paths are separated by colons.

    Exit codes: 0 done, 1 `check` found something wrong, 2 usage, 3 `lookup` found nothing, 7 local
    trouble, 130 interrupted.
    ");
    insta::assert_snapshot!(shown(env.store_index(["update", "-h"]).go()), @r"
    exit 0
    --- stdout
    Read what is new, drop what is gone

    Usage: store-index update [OPTIONS] [DIR]...

    Arguments:
      [DIR]...  Folders to index; a network or FUSE mount below one must be named itself. Without any
                root: /gnu/store, /nix/store and $NIX_STORE as far as they exist

    Options:
          --store <DIR[=REAL]>  A store to index; paths in it are computed with DIR, files read below
                                REAL
          --media <DIR>         A medium to index: a mounted disc or image, a USB disk, any mirror
                                folder. What checksum lists on it name is entered without being read
          --index <DIR>         Where the index lies, or a folder of indexes
          --algorithms <LIST>   Digests to keep beside sha256: md5, sha1, sha512, blake3, git, nar
          --jobs <N>            How many threads read
          --hash-all            Read every file of media, listed in a checksum list or not, in the order
                                of the disc; can be broken off and goes on where it was
          --hints-only          Read no file of media, enter only what checksum lists name
      -q, --quiet               Say nothing but results and errors
          --rebuild             Start from nothing
          --in-place            Write the index into DIR/.store-index, to go with the tree
      -v, --verbose             Say more
          --json                Print what was done as JSON
          --progress <STYLE>    How to show progress on standard error [possible values: auto, bar,
                                plain, json, none]
      -h, --help                Print help (see more with '--help')
    ");
    insta::assert_snapshot!(shown(env.store_index(["lookup", "-h"]).go()), @r"
    exit 0
    --- stdout
    Say where content is

    Usage: store-index lookup [OPTIONS] <HASH>

    Arguments:
      <HASH>  What to look for: SRI, algorithm:digest, a bare digest or a SWHID

    Options:
          --mode <MODE>         What the hash is of: flat, nar (also: recursive) or git
          --hash-algo <A>       The algorithm of a bare digest
          --index <DIR>         An index or a folder of indexes to use instead of the usual ones
          --store <DIR[=REAL]>  Where the files of a store are
          --media <DIR>         A folder or medium that may have its index on it
          --json                Print JSON
      -q, --quiet               Say nothing but results and errors
      -v, --verbose             Say more
          --progress <STYLE>    How to show progress on standard error [possible values: auto, bar,
                                plain, json, none]
      -h, --help                Print help (see more with '--help')
    ");
    insta::assert_snapshot!(shown(env.store_index(["status", "-h"]).go()), @r"
    exit 0
    --- stdout
    List the indexes and how fresh they are

    Usage: store-index status [OPTIONS]

    Options:
          --index <DIR>         An index or a folder of indexes to use instead of the usual ones
          --store <DIR[=REAL]>  Where the files of a store are
          --media <DIR>         A folder or medium that may have its index on it
          --json                Print JSON
      -q, --quiet               Say nothing but results and errors
      -v, --verbose             Say more
          --progress <STYLE>    How to show progress on standard error [possible values: auto, bar,
                                plain, json, none]
      -h, --help                Print help (see more with '--help')
    ");
    insta::assert_snapshot!(shown(env.store_index(["check", "-h"]).go()), @r"
    exit 0
    --- stdout
    Check indexes against themselves, with --content against the files

    Usage: store-index check [OPTIONS]

    Options:
          --index <DIR>         An index or a folder of indexes to use instead of the usual ones
          --store <DIR[=REAL]>  Where the files of a store are
          --media <DIR>         A folder or medium that may have its index on it
          --content             Read every indexed file and compare its digests
          --json                Print JSON
      -q, --quiet               Say nothing but results and errors
      -v, --verbose             Say more
          --progress <STYLE>    How to show progress on standard error [possible values: auto, bar,
                                plain, json, none]
      -h, --help                Print help (see more with '--help')
    ");
}

#[test]
fn versions() {
    let env = TestEnv::new();
    let version = env!("CARGO_PKG_VERSION");
    let fetch = env.fetch(["--version"]).go().exits(0);
    assert_eq!(fetch.stdout, format!("fetch {version}\n"));
    let store_index = env.store_index(["--version"]).go().exits(0);
    assert_eq!(store_index.stdout, format!("store-index {version}\n"));
}

#[test]
fn a_hit_in_a_folder() {
    let env = TestEnv::new();
    let _filtered = filtered(&env);
    let index = indexed_folder(&env);
    let fetch = || {
        env.fetch_hash(HELLO)
            .args(["--name", "hello"])
            .arg("--index")
            .arg(&index)
    };
    insta::assert_snapshot!(shown(fetch().arg("-v").go()), @r"
    exit 0
    --- stdout
    [DIR]/out/hello
    --- stderr
    fetch: media [DIR]/folder/greeting/hello.txt: ok
    ");
    insta::assert_snapshot!(shown(fetch().go()), @r"
    exit 0
    --- stdout
    [DIR]/out/hello
    ");
    insta::assert_snapshot!(shown(fetch().args(["--json", "--force", "-o", "other"]).go()), @r#"
    exit 0
    --- stdout
    {"version":1,"output":"[DIR]/out/other","name":"hello","method":"flat","hash":"sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=","bytes":6,"executable":false,"source":{"kind":"media","location":"[DIR]/folder/greeting/hello.txt"},"added":null,"attempts":[{"kind":"media","location":"[DIR]/folder/greeting/hello.txt","result":"ok","reason":null,"bytes":6,"ms":[MS]}],"ms":[MS],"error":null}
    "#);
}

#[test]
fn a_miss() {
    let env = TestEnv::new();
    let _filtered = filtered(&env);
    let index = indexed_folder(&env);
    let missing = "sha512-58IrmUxZ2c8rSOVJseJGZmNgRZMNPafBrLKZ0cO3+TH5Sq5B7dosKyB6NuEPi8uNRSI+VIePWzFufOO2vAGWKQ==";
    let fetch = || {
        env.fetch_hash(missing)
            .args(["--name", "hello"])
            .arg("--index")
            .arg(&index)
    };
    insta::assert_snapshot!(shown(fetch().arg("--offline").go()), @r"
    exit 3
    --- stderr
    fetch: error: not found: sha512-58IrmUxZ2c8rSOVJseJGZmNgRZMNPafBrLKZ0cO3+TH5Sq5B7dosKyB6NuEPi8uNRSI+VIePWzFufOO2vAGWKQ== (hello)
      no local source has it, and the network is off (--offline)
    fetch: hint: store-index update makes more of this machine's files findable; fetch explain shows what was asked
    ");
    insta::assert_snapshot!(shown(fetch().args(["--offline", "-q"]).go()), @r"
    exit 3
    --- stderr
    fetch: error: not found: sha512-58IrmUxZ2c8rSOVJseJGZmNgRZMNPafBrLKZ0cO3+TH5Sq5B7dosKyB6NuEPi8uNRSI+VIePWzFufOO2vAGWKQ== (hello)
      no local source has it, and the network is off (--offline)
    fetch: hint: store-index update makes more of this machine's files findable; fetch explain shows what was asked
    ");
    insta::assert_snapshot!(shown(fetch().args(["--offline", "--json", "http://127.0.0.1:1/hello"]).go()), @r#"
    exit 3
    --- stdout
    {"version":1,"output":"[DIR]/out/hello","name":"hello","method":"flat","hash":"sha512-58IrmUxZ2c8rSOVJseJGZmNgRZMNPafBrLKZ0cO3+TH5Sq5B7dosKyB6NuEPi8uNRSI+VIePWzFufOO2vAGWKQ==","bytes":null,"executable":null,"source":null,"added":null,"attempts":[{"kind":"media","location":"[DIR]/folder","result":"absent","reason":null,"bytes":0,"ms":[MS]},{"kind":"url","location":"http://127.0.0.1:[PORT]/hello","result":"skipped","reason":"the network is off (--offline)","bytes":0,"ms":[MS]}],"ms":[MS],"error":{"kind":"not-found","message":"not found: sha512-58IrmUxZ2c8rSOVJseJGZmNgRZMNPafBrLKZ0cO3+TH5Sq5B7dosKyB6NuEPi8uNRSI+VIePWzFufOO2vAGWKQ== (hello)\n  no local source has it, and the network is off (--offline)","hint":"store-index update makes more of this machine's files findable; fetch explain shows what was asked"}}
    --- stderr
    fetch: error: not found: sha512-58IrmUxZ2c8rSOVJseJGZmNgRZMNPafBrLKZ0cO3+TH5Sq5B7dosKyB6NuEPi8uNRSI+VIePWzFufOO2vAGWKQ== (hello)
      no local source has it, and the network is off (--offline)
    fetch: hint: store-index update makes more of this machine's files findable; fetch explain shows what was asked
    "#);
}

#[test]
fn a_mismatch() {
    let env = TestEnv::new();
    let _filtered = filtered(&env);
    let server = Server::with("/wrong", Answer::body("other\n"));
    let url = server.url("/wrong");
    insta::assert_snapshot!(shown(env.fetch_hash(HELLO).arg(&url).go()), @r"
    exit 4
    --- stderr
    fetch: url http://127.0.0.1:[PORT]/wrong: mismatch: wanted sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=, got sha256-fk+i64x6wIlznV3vxEifrWihANkggso1xrQKRSSCH4c=
    fetch: error: hash mismatch
      wanted: sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM= (wrong)
      got:    sha256-fk+i64x6wIlznV3vxEifrWihANkggso1xrQKRSSCH4c= (6 bytes)
      from:   http://127.0.0.1:[PORT]/wrong
    fetch: hint: check that URL and hash belong together; if upstream replaced the file, the hash needs a change
    ");
    insta::assert_snapshot!(shown(env.fetch_hash(HELLO).args([&url, "--json"]).go()), @r#"
    exit 4
    --- stdout
    {"version":1,"output":"[DIR]/out/wrong","name":"wrong","method":"flat","hash":"sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=","bytes":null,"executable":null,"source":null,"added":null,"attempts":[{"kind":"url","location":"http://127.0.0.1:[PORT]/wrong","result":"mismatch","reason":"wanted sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=, got sha256-fk+i64x6wIlznV3vxEifrWihANkggso1xrQKRSSCH4c=","bytes":6,"ms":[MS]}],"ms":[MS],"error":{"kind":"mismatch","message":"hash mismatch\n  wanted: sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM= (wrong)\n  got:    sha256-fk+i64x6wIlznV3vxEifrWihANkggso1xrQKRSSCH4c= (6 bytes)\n  from:   http://127.0.0.1:[PORT]/wrong","hint":"check that URL and hash belong together; if upstream replaced the file, the hash needs a change"}}
    --- stderr
    fetch: url http://127.0.0.1:[PORT]/wrong: mismatch: wanted sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=, got sha256-fk+i64x6wIlznV3vxEifrWihANkggso1xrQKRSSCH4c=
    fetch: error: hash mismatch
      wanted: sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM= (wrong)
      got:    sha256-fk+i64x6wIlznV3vxEifrWihANkggso1xrQKRSSCH4c= (6 bytes)
      from:   http://127.0.0.1:[PORT]/wrong
    fetch: hint: check that URL and hash belong together; if upstream replaced the file, the hash needs a change
    "#);
    let bare = "5891B5B522D5DF086D0FF0B110FBD9D21BB4FC7163AF34D08286A2E846F6BE03";
    insta::assert_snapshot!(shown(env.fetch_hash(bare).args([&server.url("/missing"), &url]).go()), @r"
    exit 4
    --- stderr
    fetch: url http://127.0.0.1:[PORT]/wrong: mismatch: wanted 5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03, got 7e4fa2eb8c7ac089739d5defc4489fad68a100d92082ca35c6b40a4524821f87
    fetch: error: hash mismatch
      wanted: 5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03 (missing)
      got:    7e4fa2eb8c7ac089739d5defc4489fad68a100d92082ca35c6b40a4524821f87 (6 bytes)
      from:   http://127.0.0.1:[PORT]/wrong
    fetch: hint: check that URL and hash belong together; if upstream replaced the file, the hash needs a change
    ");
}

#[test]
fn a_network_failure() {
    let env = TestEnv::new();
    let _filtered = filtered(&env);
    let server = Server::with("/short", Answer::claiming(10, "hello\n"));
    server.route("/broken", Answer::status(503, "<html>busy</html>"));
    let urls = [
        server.url("/short"),
        server.url("/broken"),
        server.url("/missing"),
    ];
    insta::assert_snapshot!(shown(env.fetch_hash(HELLO).args(["--retry-budget", "0"]).args(&urls).go()), @r"
    exit 5
    --- stderr
    fetch: url http://127.0.0.1:[PORT]/short: failed: short body: connection closed after 6 of 10 bytes
    fetch: url http://127.0.0.1:[PORT]/broken: failed: the server answered 503 Service Unavailable
    fetch: error: cannot download sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM= (short)
      http://127.0.0.1:[PORT]/broken: the server answered 503 Service Unavailable
    fetch: hint: try again later, or give another URL
    ");
}

#[test]
fn usage_errors() {
    let env = TestEnv::new();
    let _filtered = filtered(&env);
    insta::assert_snapshot!(shown(env.fetch(["--hash", "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2v!M="]).go()), @r"
    exit 2
    --- stderr
    fetch: error: 'WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2v!M=': the character '!' at position 42 is not base64
    ");
    insta::assert_snapshot!(shown(env.fetch(["--hash", "b1946ac92492d2347c6235b4d2611184", "--name", "x"]).go()), @r"
    exit 2
    --- stderr
    fetch: error: 'b1946ac92492d2347c6235b4d2611184' has 32 characters, which does not say what algorithm it is
    fetch: hint: it could be md5 in hex or sha1 in nix-base32: say which with --hash-algo md5 or --hash-algo sha1
    ");
    insta::assert_snapshot!(shown(env.fetch(["--hash", HELLO]).go()), @r"
    exit 2
    --- stderr
    fetch: error: where shall it go? Neither a URL, nor --name, nor -o says so
    ");
    insta::assert_snapshot!(shown(env.fetch(["--hash", HELLO, "--name", "a/b"]).go()), @r"
    exit 2
    --- stderr
    fetch: error: --name 'a/b' cannot be used: '/' cannot be in the name of a store item (letters, digits and +-._?= can)
    ");
    insta::assert_snapshot!(shown(env.fetch_hash(HELLO).arg("gopher://127.0.0.1/hello").go()), @r"
    exit 2
    --- stderr
    fetch: warning: gopher://127.0.0.1/hello is skipped: the scheme gopher:// is not supported
    fetch: error: no usable URL is left for sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM= (hello), and no local source has it
    fetch: hint: http://, https://, mirror:// and, on the command line, file:// URLs can be fetched from
    ");
    insta::assert_snapshot!(shown(env.store_index(["lookup", "sha3:00"]).go()), @r"
    exit 2
    --- stderr
    error: unknown hash algorithm 'sha3'
    hint: known are md5, sha1, sha256, sha512 and blake3, in lower case
    ");
}

#[test]
fn explaining() {
    if lacks("explaining", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let _filtered = filtered(&env);
    let store = NixStore::new(&env);
    let index = indexed_folder(&env);
    store.add_fixed("sha256", false, &env.path("folder/greeting/hello.txt"));
    let explain = || {
        let run = env.fetch([
            "explain",
            "--no-store",
            "--no-media",
            HELLO,
            "--name",
            "other.txt",
        ]);
        run.arg("--store")
            .arg(store.dir())
            .arg("--index")
            .arg(&index)
            .arg("http://127.0.0.1:1/hello")
    };
    insta::assert_snapshot!(shown(explain().go()), @r"
    exit 0
    --- stdout
    store       absent      [DIR]/nix/store [[MS] ms]
    links       absent      [DIR]/nix/store/.links: without an index only sha256 NAR hashes can be looked up; store-index update --store [DIR]/nix/store makes one [[MS] ms]
    store       found       [DIR]/nix/store/[DIGEST]-hello.txt (6 bytes to copy and hash): known as hello.txt [[MS] ms]
    media       found       [DIR]/folder/greeting/hello.txt (6 bytes to copy and hash): known as hello.txt [[MS] ms]
    url         would ask   http://127.0.0.1:[PORT]/hello [[MS] ms]
    ");
    insta::assert_snapshot!(shown(explain().arg("--json").go()), @r#"
    exit 0
    --- stdout
    {"version":1,"hash":"sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=","method":"flat","answers":[{"kind":"store","location":"[DIR]/nix/store","answer":"absent","reason":null,"bytes":null,"ms":[MS]},{"kind":"links","location":"[DIR]/nix/store/.links","answer":"absent","reason":"without an index only sha256 NAR hashes can be looked up; store-index update --store [DIR]/nix/store makes one","bytes":null,"ms":[MS]},{"kind":"store","location":"[DIR]/nix/store/[DIGEST]-hello.txt","answer":"found","reason":"known as hello.txt","bytes":6,"ms":[MS]},{"kind":"media","location":"[DIR]/folder/greeting/hello.txt","answer":"found","reason":"known as hello.txt","bytes":6,"ms":[MS]},{"kind":"url","location":"http://127.0.0.1:[PORT]/hello","answer":"would ask","reason":null,"bytes":null,"ms":[MS]}]}
    "#);
    let nowhere = env.fetch(["explain", "--no-store", "--no-media", HELLO, "--name", "x"]);
    insta::assert_snapshot!(shown(nowhere.go()), @"exit 3");
}

#[test]
fn indexing() {
    let env = TestEnv::new();
    let _filtered = filtered(&env);
    env.write("folder/greeting/hello.txt", "hello\n");
    let index = env.path("index");
    let update = || {
        env.store_index(["update", "--index"])
            .arg(&index)
            .arg(env.path("folder"))
    };
    let run = |command: &str| env.store_index([command, "--index"]).arg(&index);
    insta::assert_snapshot!(shown(update().go()), @r"
    exit 0
    --- stdout
    [DIR]/folder: 1 files, 1 new (6 B hashed), 0 dropped, index [DIR]/index (1.12 KiB)
    ");
    insta::assert_snapshot!(shown(update().go()), @r"
    exit 0
    --- stdout
    [DIR]/folder: 1 files, 0 new (0 B hashed), 0 dropped, index [DIR]/index (1.12 KiB)
    ");
    insta::assert_snapshot!(shown(update().arg("--json").go()), @r#"
    exit 0
    --- stdout
    {
      "roots": [
        {
          "added": 0,
          "changing": 0,
          "complete": true,
          "directories": 0,
          "files": 1,
          "hashed_bytes": 0,
          "hints": 0,
          "id": "[ROOT ID]",
          "index": "[DIR]/index",
          "index_bytes": 1142,
          "kind": "folder",
          "links": 0,
          "ms": [MS],
          "notes": [],
          "removed": 0,
          "root": "[DIR]/folder",
          "segments": 1,
          "unchanged": 1,
          "unfinished_items": 0,
          "unreadable": 0,
          "warnings": []
        }
      ],
      "version": 1
    }
    "#);
    insta::assert_snapshot!(shown(run("status").go()), @r"
    exit 0
    --- stdout
    folder [DIR]/folder
      index    [DIR]/index
      entries  0 links, 1 files
      digests  sha256
      size     1.12 KiB in 1 segments
      state    complete as of its last update
    ");
    insta::assert_snapshot!(shown(run("lookup").arg(HELLO).go()), @r"
    exit 0
    --- stdout
    [DIR]/folder/greeting/hello.txt
    ");
    insta::assert_snapshot!(shown(run("lookup").args([HELLO, "--json"]).go()), @r#"
    exit 0
    --- stdout
    [
      {
        "hint": false,
        "kind": "media",
        "label": null,
        "mounted": true,
        "path": "[DIR]/folder/greeting/hello.txt",
        "root": "[DIR]/folder"
      }
    ]
    "#);
    insta::assert_snapshot!(shown(run("lookup").args([HELLO, "--mode", "nar"]).go()), @r"
    exit 3
    --- stderr
    sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM= is not in the index
    ");
    insta::assert_snapshot!(shown(run("check").arg("--content").go()), @r"
    exit 0
    --- stderr
    [DIR]/index: 1 objects, 1 files read, nothing wrong
    ");
    env.write("folder/greeting/hello.txt", "other\n");
    insta::assert_snapshot!(shown(run("check").arg("--content").go()), @r"
    exit 1
    --- stdout
    [DIR]/folder/greeting/hello.txt: its flat sha256 is 7e4fa2eb8c7ac089739d5defc4489fad68a100d92082ca35c6b40a4524821f87, the index says 5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03
    --- stderr
    [DIR]/index: 1 objects, 1 files read, 1 wrong
    ");
}

/// The keys of `--json` are a promise: all of them always there, nothing else.
#[test]
fn the_keys_of_json() {
    let env = TestEnv::new();
    let index = indexed_folder(&env);
    let server = Server::with("/wrong", Answer::body("other\n"));
    let keys = |value: &serde_json::Value| -> Vec<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    let hit = env
        .fetch_hash(HELLO)
        .args(["--name", "hello"])
        .arg("--index")
        .arg(&index)
        .json(0);
    let miss = env
        .fetch_hash(HELLO)
        .args(["--name", "miss", "--offline"])
        .json(3);
    let wrong = env.fetch_hash(HELLO).arg(server.url("/wrong")).json(4);
    let taken = env
        .fetch_hash(crate::support::sri(b"else"))
        .args(["-o", "hello"])
        .json(7);
    for report in [&hit, &miss, &wrong, &taken] {
        assert_eq!(
            keys(&report.object),
            [
                "added",
                "attempts",
                "bytes",
                "error",
                "executable",
                "hash",
                "method",
                "ms",
                "name",
                "output",
                "source",
                "version"
            ]
        );
        for attempt in report.object["attempts"].as_array().unwrap() {
            assert_eq!(
                keys(attempt),
                ["bytes", "kind", "location", "ms", "reason", "result"]
            );
        }
        assert_eq!(report.object["version"], 1);
        assert_eq!(report.object["method"], "flat");
    }
    assert_eq!(keys(&hit.object["source"]), ["kind", "location"]);
    assert!(hit.object["error"].is_null());
    for report in [miss, wrong, taken] {
        assert_eq!(keys(&report.object["error"]), ["hint", "kind", "message"]);
        assert!(report.object["source"].is_null() && report.object["bytes"].is_null());
    }
}

/// Somebody who stops reading our output is no failure worth a page.
#[test]
fn a_closed_pipe_is_no_panic() {
    let env = TestEnv::new();
    let index = indexed_folder(&env);
    let script = r#"{ "$@"; echo "exit $?" >&2; } | true"#;
    for words in [
        vec![env!("CARGO_BIN_EXE_fetch"), "--help"],
        vec![
            env!("CARGO_BIN_EXE_fetch"),
            "explain",
            "--no-store",
            "--no-media",
            HELLO,
            "--index",
            index.to_str().unwrap(),
        ],
    ] {
        let output = std::process::Command::new("sh")
            .args(["-c", script, "sh"])
            .args(words)
            .env_clear()
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !said.contains("panicked") && !said.contains("exit 101"),
            "{said}"
        );
    }
}

/// The folder that the README's first command searches.
#[test]
fn the_sources_that_come_along() {
    let env = TestEnv::new();
    let sources = crate::support::repository().join("testdata/sources");
    let index = env.path("index");
    env.store_index(["update", "--index"])
        .arg(&index)
        .arg(&sources)
        .go()
        .exits(0);
    let readme = fs_err::read_to_string(sources.with_file_name("README.md")).unwrap();
    for (name, hash) in [
        (
            "hello-1.0.tar",
            "sha256-fTw3nw2HbW7JwVDh+BrzF+VRfUKZBtxvaLwz12ohKzU=",
        ),
        ("hello.txt", HELLO),
        (
            "hello-1.0-greeting.patch",
            "sha256-Uha1P1CKxCSlHZkrMtP4eY6vymEedKjzZqzybTqy9X4=",
        ),
    ] {
        let line = readme
            .lines()
            .find(|line| line.contains(name) && line.contains(hash));
        assert!(
            line.is_some(),
            "testdata/README.md lists {name} with {hash}"
        );
        let run = env
            .fetch_hash(hash)
            .args(["--offline", "--name", "renamed", "--index"])
            .arg(&index);
        assert_eq!(run.json(0).kind(), "media");
        fs_err::remove_file(env.out("renamed")).unwrap();
    }
}

/// Standard error carries progress; as JSON it is one object a line.
#[test]
fn progress() {
    let env = TestEnv::new();
    let server = Server::with("/hello", Answer::body("hello\n"));
    for number in 0..50 {
        env.write(format!("folder/{number}"), vec![b'x'; 100_000]);
    }
    let fetch = |how: &str| {
        let run = env
            .fetch_hash(HELLO)
            .arg(server.url("/hello"))
            .args(["--progress", how]);
        let outcome = run.go().exits(0);
        fs_err::remove_file(env.out("hello")).unwrap();
        outcome
    };
    let update = |how: &str| {
        let run = env.store_index(["update", "--progress", how, "--index"]);
        run.arg(env.path(format!("index-{how}")))
            .arg(env.path("folder"))
            .go()
            .exits(0)
    };
    for outcome in [fetch("json"), update("json")] {
        let lines: Vec<serde_json::Value> = outcome
            .stderr
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert!(
            !lines.is_empty() && lines.iter().all(serde_json::Value::is_object),
            "{outcome}"
        );
    }
    for outcome in [fetch("none"), update("none")] {
        assert_eq!(outcome.stderr, "");
    }
    // Nothing that moves the cursor where no terminal is.
    for outcome in [
        fetch("auto"),
        fetch("plain"),
        update("auto"),
        update("plain"),
    ] {
        assert!(!outcome.stderr.contains(['\r', '\x1b']), "{outcome}");
    }
}

/// On a terminal a bar is drawn, and standard output still carries the path alone.
#[test]
fn progress_on_a_terminal() {
    if lacks("progress_on_a_terminal", &["script"], false) {
        return;
    }
    let env = TestEnv::new();
    let server = Server::with(
        "/hello",
        Answer::drip(std::time::Duration::from_millis(100)),
    );
    // `script` runs it on a terminal of its own; the path goes past that, into a file.
    let command = format!(
        "exec {} --no-store --no-media --hash {HELLO} --max-bytes 12 {} > stdout",
        env!("CARGO_BIN_EXE_fetch"),
        server.url("/hello")
    );
    let output = std::process::Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .current_dir(env.path("out"))
        .env("HOME", env.path("home"))
        .env("TERM", "xterm")
        .output()
        .unwrap();
    let screen = String::from_utf8_lossy(&output.stdout);
    assert!(
        screen.contains("downloading") && screen.contains('\r'),
        "no bar: {screen:?}"
    );
    assert_eq!(fs_err::read_to_string(env.out("stdout")).unwrap(), "");
    assert_eq!(output.status.code(), Some(5), "{screen:?}");
}
