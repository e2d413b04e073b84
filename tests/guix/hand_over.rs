//! All that is not ours goes to the real guix, as it came.

use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::support::guix::{GuixStore, HANDED_OVER, flat, mode};
use crate::support::{TestEnv, is_root, lacks, skipped};

/// What the daemon delegates, with arguments as it gives them.
const DELEGATED: [&[&str]; 8] = [
    &["substitute", "--query"],
    &["substitute", "--substitute"],
    &["authenticate", "sign", "/etc/guix/signing-key.sec", "abc"],
    &["offload", "x86_64-linux", "3600", "1", "36000"],
    &["gc", "--list-busy"],
    &["discover"],
    &["perform-download", "--version"],
    &[],
];

#[test]
fn what_is_not_ours_goes_on_as_it_came() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    for args in DELEGATED {
        let outcome = store.guix([]).args(args).go().exits(HANDED_OVER);
        assert_eq!((&*outcome.stdout, &*outcome.stderr), ("", ""));
        let record = store.handed_over().unwrap();
        let shown: String = args.iter().map(|arg| format!(" <{arg}>")).collect();
        let shown = if args.is_empty() { " <>" } else { &shown };
        assert!(record.starts_with(&format!("argv{shown}\n")), "{record}");
        assert!(
            record.contains(&format!("NIX_STORE={}\n", store.dir().display())),
            "{record}"
        );
        fs_err::remove_file(env.path("tmp/handed-over")).unwrap();
    }
}

/// Name, arguments that are no text, environment, folder and descriptors: a shell in guix's place tells what it got.
#[test]
fn nothing_is_changed_on_the_way() {
    let env = TestEnv::new();
    let _store = GuixStore::new(&env);
    let script = "printf '%s|%s|%s|%s|' \"$0\" \"$PWD\" \"$(umask)\" \"$ODD\"; cat <&5; printf %s \"$*\" >&4; echo error >&2; read line; echo \"|$line\"";
    // The shell prepares descriptors 4 and 5, as the daemon prepares its pipes.
    let output = Command::new("sh")
        .args(["-c", "umask 027; exec \"$0\" \"$@\" 4>four 5<five"])
        .arg(env.path("bin/guix"))
        .args(["-c", script, "guix-arg-0"])
        .arg("two  blanks")
        .env("FETCH_GUIX", "/bin/bash")
        .env("ODD", "a=b\nc")
        .current_dir({
            env.write("out/five", "from five");
            env.path("out")
        })
        .stdin(Stdio::from(
            fs_err::File::open(env.write("stdin", "a line\n"))
                .unwrap()
                .into_parts()
                .0,
        ))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!(
            "guix-arg-0|{}|0027|a=b\nc|from five|a line\n",
            env.path("out").display()
        )
    );
    assert_eq!(output.stderr, b"error\n");
    assert_eq!(fs_err::read(env.path("out/four")).unwrap(), b"two  blanks");

    // As the daemon does it, by any path and the name of guix. A shell that is told no name for its script shows the one
    // it was called by.
    let output = Command::new(env.path("bin/fetch"))
        .arg0("guix")
        .args(["-c", "printf %s \"$0\"; env"])
        .env_clear()
        .env("FETCH_GUIX", "/bin/bash")
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let mut variables: Vec<_> = shown.strip_prefix("guix").unwrap().lines().collect();
    // Those that bash makes itself.
    variables.retain(|line| {
        !["PWD=", "SHLVL=", "_="]
            .iter()
            .any(|own| line.starts_with(own))
    });
    variables.sort_unstable();
    assert_eq!(
        variables,
        ["FETCH_GUIX=/bin/bash", "FETCH_GUIX_HANDED_OVER=1"]
    );
}

#[test]
fn it_is_never_handed_to_ourselves() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let hard = env.path("bin/hard");
    fs_err::hard_link(env.path("bin/fetch"), &hard).unwrap();
    for own in [env.path("bin/guix"), env.path("bin/fetch"), hard] {
        store
            .guix(["gc", "--list-busy"])
            .variable("FETCH_GUIX", &own)
            .go()
            .exits(1)
            .says("it is this program itself");
    }
    // By a wrapper, with and without `exec`, and by a copy.
    let wrapper = env.path("bin/wrapper");
    for exec in ["exec", ""] {
        let ours = env.path("bin/guix");
        env.write(
            "bin/wrapper",
            format!("#!/bin/sh\n{exec} {} \"$@\"\n", ours.display()),
        );
        mode(&wrapper, 0o755);
        store
            .guix(["gc", "--list-busy"])
            .variable("FETCH_GUIX", &wrapper)
            .go()
            .exits(1)
            .says("the real guix leads back here");
    }
    let copies = env.path("copies");
    fs_err::create_dir(&copies).unwrap();
    let copied = Command::new("cp")
        .arg(env.path("bin/fetch"))
        .arg(copies.join("guix"))
        .status()
        .unwrap();
    assert!(copied.success());
    // That one finds that it was named itself.
    store
        .guix(["gc", "--list-busy"])
        .variable("FETCH_GUIX", copies.join("guix"))
        .go()
        .exits(1)
        .says("it is this program itself");
    store
        .guix(["gc"])
        .variable("FETCH_GUIX", "bin/real-guix")
        .go()
        .exits(1)
        .says("it is not an absolute path");
}

/// Called by any other name, the words of guix mean nothing.
#[test]
fn another_name_hands_nothing_over() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    symlink("fetch", env.path("bin/guix-fetch")).unwrap();
    env.run(&env.path("bin/guix-fetch"), ["gc", "--list-busy"])
        .variable("FETCH_GUIX", env.path("bin/real-guix"))
        .go()
        .exits(2);
    assert_eq!(store.handed_over(), None);
}

#[test]
fn derivations_beyond_us_go_on_as_they_came() {
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let unknown = [
        ("builtin:download", "builtin:hg-download"),
        ("\"sha256\"", "\"sha3-256\""),
    ];
    for replaced in unknown {
        let drv = store.derivation("flat-plain.drv", &flat(b"x"), None, &[replaced]);
        store
            .perform(&drv)
            .go()
            .exits(HANDED_OVER)
            .says("handing over to the real guix");
        let record = store.handed_over().unwrap();
        let expected = format!(
            "argv <perform-download> <{}> <{}>\n",
            drv.path.display(),
            drv.output.display()
        );
        assert!(record.starts_with(&expected), "{record}");
        // `ls` of the output printed nothing: the next line is of the environment.
        assert!(!record.contains("-rw"), "{record}");
        fs_err::remove_file(env.path("tmp/handed-over")).unwrap();

        env.fetch(["perform-download"])
            .arg(&drv.path)
            .variable("NIX_STORE", store.dir())
            .variable("FETCH_GUIX", env.path("bin/real-guix"))
            .by_nobody()
            .go()
            .exits(HANDED_OVER);
        let record = store.handed_over().unwrap();
        let expected = format!("argv <perform-download> <{}>\n", drv.path.display());
        assert!(record.starts_with(&expected), "{record}");
        fs_err::remove_file(env.path("tmp/handed-over")).unwrap();
    }
}

#[test]
fn root_downloads_nothing() {
    if !is_root() {
        return skipped("root_downloads_nothing", "needs root");
    }
    if lacks("root_downloads_nothing", &["setpriv"], true) {
        return;
    }
    let env = TestEnv::new();
    let store = GuixStore::new(&env);
    let drv = store.derivation("flat-plain.drv", &flat(b"x"), None, &[]);
    store
        .guix(["perform-download"])
        .arg(&drv.path)
        .arg(&drv.output)
        .go()
        .exits(1)
        .says("refusing to run with elevated privileges");
    env.fetch(["perform-download"])
        .arg(&drv.path)
        .go()
        .exits(1)
        .says("refusing to run with elevated privileges");
    assert_eq!(store.handed_over(), None);
}
