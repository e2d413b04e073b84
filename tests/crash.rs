//! SIGKILL at many moments, SIGINT at some: an output appears whole or not at all, and the next run finds nothing in its way.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::nginx::{NGINX, Nginx};
use crate::support::nix::{NIX, NixStore};
use crate::support::{Outcome, Run, Running, TestEnv, lacks, noise, sri, wait_until};

/// How many moments of a run are tried.
const MOMENTS: u32 = 30;

/// What is left of the supposed length of a run after one that had ended when its moment came: how fast a run is
/// changes with what else the machine does.
fn shorter(whole: Duration) -> Duration {
    whole * 3 / 4
}

/// Kills the run at moments spread over its whole length, and calls `check` after each.
/// Returns how many of them were in time.
fn kill_at_many_moments<'env>(
    start: impl Fn() -> Run<'env>,
    mut whole: Duration,
    mut check: impl FnMut(u32),
) -> u32 {
    let mut in_time = 0;
    for moment in 0..MOMENTS {
        let running = start().start();
        std::thread::sleep(whole * moment / MOMENTS);
        running.signal(Signal::KILL);
        if running.wait().was_killed() {
            in_time += 1;
        } else {
            whole = shorter(whole);
        }
        check(moment);
    }
    in_time
}

/// Starts a run and waits until it has its handler: a Ctrl-C that comes earlier ends it as any program.
fn start_minding_interrupts(run: Run<'_>) -> Running {
    let mut running = run.start();
    wait_until("it minds Ctrl-C", || {
        !running.is_running() || running.catches(Signal::INT)
    });
    running
}

/// How long one undisturbed run takes.
fn time(run: Run<'_>) -> Duration {
    let started = Instant::now();
    run.go().exits(0);
    started.elapsed()
}

/// The output is absent or right; a run to the end then succeeds and leaves the output alone in its folder.
#[track_caller]
fn absent_or_right_then_right(
    env: &TestEnv,
    name: &str,
    right: impl Fn(&Path) -> bool,
    run: Run<'_>,
    moment: u32,
) {
    let out = env.out(name);
    if fs_err::symlink_metadata(&out).is_ok() {
        assert!(
            right(&out),
            "a part of the output was published at moment {moment}"
        );
    }
    run.go().exits(0);
    assert!(right(&out), "wrong after moment {moment}");
    assert_eq!(
        env.outputs(),
        [name],
        "left beside the output after moment {moment}"
    );
    if out.is_dir() {
        fs_err::remove_dir_all(out).unwrap();
    } else {
        fs_err::remove_file(out).unwrap();
    }
}

#[test]
fn killed_while_it_copies_a_file() {
    if lacks("killed_while_it_copies_a_file", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    let bytes = noise(1, 60_000_000);
    store.add_fixed("sha256", false, &env.write("big", &bytes));
    fs_err::remove_file(env.path("big")).unwrap();
    let hash = sri(&bytes);
    let fetch = || {
        env.fetch_hash(&hash)
            .args(["--offline", "--name", "copy", "--store"])
            .arg(store.dir())
    };
    let whole = time(fetch());
    fs_err::remove_file(env.out("copy")).unwrap();
    let right = |path: &Path| fs_err::read(path).unwrap() == bytes;
    let in_time = kill_at_many_moments(fetch, whole, |moment| {
        absent_or_right_then_right(&env, "copy", right, fetch(), moment);
    });
    assert!(
        in_time >= MOMENTS / 4,
        "only {in_time} of {MOMENTS} kills came in time: nothing was tested"
    );
}

#[test]
fn killed_while_it_copies_a_tree() {
    if lacks("killed_while_it_copies_a_tree", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    for number in 0..500 {
        env.write(
            format!("tree/{}/{number}", number % 40),
            noise(number, 1000),
        );
    }
    let item = store.add(&env.path("tree"));
    let hash = store.nar_hash(&item);
    let fetch = || {
        let run =
            env.fetch_hash(&hash)
                .args(["--mode", "nar", "--offline", "--name", "copy", "--store"]);
        run.arg(store.dir())
    };
    let whole = time(fetch());
    fs_err::remove_dir_all(env.out("copy")).unwrap();
    let right = |path: &Path| store.nar_hash(path) == hash;
    let in_time = kill_at_many_moments(fetch, whole, |moment| {
        absent_or_right_then_right(&env, "copy", right, fetch(), moment);
    });
    assert!(
        in_time >= MOMENTS / 4,
        "only {in_time} of {MOMENTS} kills came in time: nothing was tested"
    );
}

#[test]
fn killed_while_it_downloads() {
    if lacks("killed_while_it_downloads", NGINX, false) {
        return;
    }
    let env = TestEnv::new();
    let nginx = Nginx::new(&env);
    let bytes = noise(1, 100_000);
    env.write("www/big", &bytes);
    let hash = sri(&bytes);
    // Half a second at 200 KiB/s.
    let slow = || env.fetch_hash(&hash).arg(nginx.url("/slow/big"));
    let whole = time(slow());
    fs_err::remove_file(env.out("big")).unwrap();
    let right = |path: &Path| fs_err::read(path).unwrap() == bytes;
    let in_time = kill_at_many_moments(slow, whole, |moment| {
        absent_or_right_then_right(
            &env,
            "big",
            right,
            env.fetch_hash(&hash).arg(nginx.url("/big")),
            moment,
        );
    });
    assert!(
        in_time >= MOMENTS / 4,
        "only {in_time} of {MOMENTS} kills came in time: nothing was tested"
    );
}

#[test]
fn killed_while_it_indexes() {
    let env = TestEnv::new();
    for number in 0..1500 {
        env.write(
            format!("folder/{}/{number}", number % 30),
            noise(number, 20_000),
        );
    }
    let [first, last] = [0, 1499].map(|number| sri(&noise(number, 20_000)));
    let folder = env.path("folder");
    let update = |index: &str| {
        env.store_index(["update", "--index"])
            .arg(env.path(index))
            .arg(&folder)
    };
    let whole = time(update("undisturbed"));
    let in_time = kill_at_many_moments(
        || update("killed"),
        whole,
        |moment| {
            // Whatever is there is used or ignored, not believed and not in the way.
            for hash in [&first, &last] {
                let run = env
                    .fetch_hash(hash)
                    .args(["--offline", "--name", "found", "--index"])
                    .arg(env.path("killed"));
                let outcome: Outcome = run.go();
                let found = outcome.status.code();
                assert!(
                    found == Some(0) || found == Some(3),
                    "after moment {moment}\n{outcome}"
                );
                if found == Some(0) {
                    fs_err::remove_file(env.out("found")).unwrap();
                }
            }
            if moment % 3 == 0 {
                update("killed").go().exits(0);
                env.store_index(["check", "--index"])
                    .arg(env.path("killed"))
                    .go()
                    .exits(0);
                for hash in [&first, &last] {
                    env.store_index(["lookup", hash, "--index"])
                        .arg(env.path("killed"))
                        .go()
                        .exits(0);
                }
                assert_eq!(
                    index_files(&env.path("killed")),
                    index_files(&env.path("undisturbed")),
                    "after moment {moment}: the index differs, or something is left in it"
                );
            }
            if moment % 6 == 0 {
                fs_err::remove_dir_all(env.path("killed")).unwrap();
            }
        },
    );
    assert!(
        in_time >= MOMENTS / 4,
        "only {in_time} of {MOMENTS} kills came in time: nothing was tested"
    );
}

/// Names and contents of what an index consists of.
fn index_files(index: &Path) -> Vec<(String, Vec<u8>)> {
    crate::support::names_in(index)
        .into_iter()
        .filter(|name| name != "lock")
        .map(|name| (name.clone(), fs_err::read(index.join(name)).unwrap()))
        .collect()
}

/// Ctrl-C while a download runs: exit 130, soon, and nothing is left.
#[test]
fn interrupted_while_it_downloads() {
    if lacks("interrupted_while_it_downloads", NGINX, false) {
        return;
    }
    let env = TestEnv::new();
    let nginx = Nginx::new(&env);
    let bytes = noise(1, 30_000_000);
    env.write("www/big", &bytes);
    let mut running = env
        .fetch_hash(sri(&bytes))
        .arg(nginx.url("/slow/big"))
        .start();
    wait_until("the download has begun", || {
        names_in_spools(&env) > 0 || !running.is_running() || connected(&nginx)
    });
    std::thread::sleep(Duration::from_millis(300));
    assert!(running.is_running());
    let asked = Instant::now();
    running.signal(Signal::INT);
    let outcome = running.wait().exits(130);
    assert!(asked.elapsed() < Duration::from_secs(5), "{outcome}");
    assert_eq!(outcome.stdout, "");
    assert_eq!(env.outputs(), [""; 0]);
}

fn names_in_spools(env: &TestEnv) -> usize {
    crate::support::names_in(&env.path("cache")).len()
}

/// Says whether somebody is connected to the server.
fn connected(nginx: &Nginx) -> bool {
    let port = format!(":{:04X}", nginx.port());
    // State 01 is "established".
    let table = fs_err::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.get(1).is_some_and(|local| local.ends_with(&port)) && fields.get(3) == Some(&"01")
    })
}

/// Ctrl-C while it waits for a server that says nothing.
#[test]
fn interrupted_while_nothing_comes() {
    let env = TestEnv::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/silent", silent.local_addr().unwrap());
    let running = env.fetch_hash(sri(b"never")).arg(url).start();
    let (_connection, _) = silent.accept().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let asked = Instant::now();
    running.signal(Signal::INT);
    running.wait().exits(130);
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert_eq!(env.outputs(), [""; 0]);
}

/// Ctrl-C at many moments of a local copy: done and right, or 130 and nothing left.
#[test]
fn interrupted_while_it_copies() {
    if lacks("interrupted_while_it_copies", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    for number in 0..400 {
        env.write(format!("tree/{number}"), noise(number, 50_000));
    }
    let item = store.add(&env.path("tree"));
    let hash = store.nar_hash(&item);
    let fetch = || {
        let run =
            env.fetch_hash(&hash)
                .args(["--mode", "nar", "--offline", "--name", "copy", "--store"]);
        run.arg(store.dir())
    };
    let mut whole = time(fetch());
    fs_err::remove_dir_all(env.out("copy")).unwrap();
    let mut interrupted = 0;
    for moment in 0..MOMENTS {
        let running = start_minding_interrupts(fetch());
        std::thread::sleep(whole * moment / MOMENTS);
        running.signal(Signal::INT);
        let outcome = running.wait();
        match outcome.status.code() {
            Some(0) => {
                whole = shorter(whole);
                assert_eq!(env.outputs(), ["copy"]);
                fs_err::remove_dir_all(env.out("copy")).unwrap();
            }
            Some(130) => {
                assert_eq!(
                    env.outputs(),
                    [""; 0],
                    "left after an interruption at moment {moment}"
                );
                interrupted += 1;
            }
            _ => panic!("{outcome}"),
        }
    }
    assert!(
        interrupted >= MOMENTS / 4,
        "only {interrupted} of {MOMENTS} interruptions came in time"
    );
}

/// Ctrl-C while indexing: what was done stays usable, and the next update ends it.
#[test]
fn interrupted_while_it_indexes() {
    let env = TestEnv::new();
    for number in 0..400 {
        env.write(format!("folder/{number}"), noise(number, 200_000));
    }
    let folder = env.path("folder");
    let update = |index: &str| {
        env.store_index(["update", "--index"])
            .arg(env.path(index))
            .arg(&folder)
    };
    let whole = time(update("undisturbed"));
    let mut whole = whole;
    for attempt in 0.. {
        let running = start_minding_interrupts(update("index"));
        std::thread::sleep(whole / 2);
        running.signal(Signal::INT);
        let outcome = running.wait();
        if outcome.status.code() == Some(130) {
            break;
        }
        outcome.exits(0);
        assert!(attempt < 10, "no interruption came in time");
        fs_err::remove_dir_all(env.path("index")).unwrap();
        whole = shorter(whole);
    }
    update("index").go().exits(0);
    assert_eq!(
        index_files(&env.path("index")),
        index_files(&env.path("undisturbed"))
    );
}

/// What a killed run left behind goes with the next run in that folder; what is somebody else's stays.
#[test]
fn leftovers_are_swept() {
    if lacks("leftovers_are_swept", NIX, false) {
        return;
    }
    let env = TestEnv::new();
    let store = NixStore::new(&env);
    env.write("tree/file", "hello\n");
    let item = store.add(&env.path("tree"));
    env.write(
        "out/.fetch-0123456789abcdef/half/a/tree",
        "left by a killed run",
    );
    env.write("out/.fetched-not-ours", "kept");
    env.write("out/.fetch-notes", "kept");
    let run = env.fetch_hash(store.nar_hash(&item));
    let run = run.args(["--mode", "nar", "--offline", "--name", "copy", "--store"]);
    run.arg(store.dir()).go().exits(0);
    assert_eq!(env.outputs(), [".fetch-notes", ".fetched-not-ours", "copy"]);
}
