//! What breaks off goes on: in the next run, from the next mirror, after `kill -9`; and what does not fit is thrown away.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::server::{Answer, Manner, Server};
use crate::support::{Run, TestEnv, lacks, mode, names_in, noise, sri};

/// Above what comes into the spool.
const LEN: usize = 3 << 20;
/// Where the transfers break off.
const CUT: usize = 2 << 20;

impl Run<'_> {
    /// One try a URL, so that each run shows one step.
    fn once(self) -> Self {
        self.args(["--retry-budget", "0"])
    }
}

struct World {
    env: TestEnv,
    server: Server,
    body: Vec<u8>,
}

impl World {
    fn new() -> Self {
        Self {
            env: TestEnv::new(),
            server: Server::start(),
            body: noise(7, LEN),
        }
    }

    fn fetch(&self, path: &str) -> Run<'_> {
        self.env
            .fetch_hash(sri(&self.body))
            .args(["-o", "big"])
            .arg(self.server.url(path))
            .once()
    }

    fn spool(&self) -> PathBuf {
        self.env.path("cache/fetch/spool")
    }

    /// Returns the length of the only partial download.
    fn spooled_bytes(&self) -> u64 {
        let parts: Vec<_> = names_in(&self.spool())
            .into_iter()
            .filter(|name| name.ends_with(".part"))
            .collect();
        assert_eq!(parts.len(), 1, "{parts:?}");
        fs_err::metadata(self.spool().join(&parts[0]))
            .unwrap()
            .len()
    }

    /// Lets a download break off.
    fn break_off(&self, answer: Answer) {
        self.server.route("/broken", answer.cut_after(CUT));
        self.fetch("/broken").go().exits(5).says("short body");
        assert_eq!(self.env.outputs(), [""; 0]);
        assert_eq!(self.spooled_bytes(), CUT as u64);
    }

    /// Expects the right output, and nothing left in the spool.
    #[track_caller]
    fn is_done(&self) {
        assert!(self.env.output("big") == self.body, "other bytes");
        assert_eq!(self.env.outputs(), ["big"]);
        assert_eq!(names_in(&self.spool()), [""; 0]);
    }

    /// Returns the header of the last request.
    fn asked(&self, header: &str) -> Option<String> {
        let requests = self.server.requests();
        requests.last().unwrap().header(header).map(str::to_owned)
    }
}

#[test]
fn the_next_run_goes_on() {
    let world = World::new();
    world.break_off(Answer::file(world.body.clone()).header("ETag: \"one\""));
    world.server.route(
        "/broken",
        Answer::file(world.body.clone()).header("ETag: \"one\""),
    );
    let before = world.server.sent_bytes();
    world.fetch("/broken").go().exits(0);
    world.is_done();
    assert_eq!(
        world.asked("range").as_deref(),
        Some(&*format!("bytes={CUT}-"))
    );
    assert_eq!(world.asked("if-range").as_deref(), Some("\"one\""));
    assert_eq!(world.server.sent_bytes() - before, (LEN - CUT) as u64);
}

/// A mirror knows nothing of the other's validators, and is asked for the rest all the same.
#[test]
fn another_mirror_goes_on() {
    let world = World::new();
    world.break_off(Answer::file(world.body.clone()).header("ETag: \"one\""));
    let mirror = Server::with("/mirror", Answer::file(world.body.clone()));
    let run = world.env.fetch_hash(sri(&world.body)).args(["-o", "big"]);
    // The first breaks off again, at once; the second has the rest.
    world.server.route(
        "/broken",
        Answer::file(world.body.clone())
            .header("ETag: \"one\"")
            .cut_after(100_000),
    );
    run.args([world.server.url("/broken"), mirror.url("/mirror")])
        .once()
        .go()
        .exits(0);
    world.is_done();
    assert_eq!(mirror.sent_bytes(), (LEN - CUT - 100_000) as u64);
    assert_eq!(mirror.requests()[0].header("if-range"), None);
}

/// A weak validator, or a date that is not old enough, tells no versions apart.
#[test]
fn weak_validators_are_not_sent() {
    let world = World::new();
    world.break_off(Answer::file(world.body.clone()).header("ETag: W/\"one\""));
    world
        .server
        .route("/broken", Answer::file(world.body.clone()));
    world.fetch("/broken").go().exits(0);
    world.is_done();
    assert_eq!(world.asked("if-range"), None);
}

/// The file changed meanwhile: the server says so and sends the new one, or says nothing and sends its rest.
#[test]
fn a_file_that_changed_is_asked_for_from_the_beginning() {
    let world = World::new();
    let old = noise(8, LEN);
    world.break_off(Answer::file(old.clone()).header("ETag: \"old\""));
    world.server.route(
        "/broken",
        Answer::file(world.body.clone()).header("ETag: \"new\""),
    );
    world.fetch("/broken").go().exits(0);
    world.is_done();
    assert_eq!(world.server.requests().len(), 2, "the answer was the whole");

    fs_err::remove_file(world.env.out("big")).unwrap();
    world.break_off(Answer::file(old));
    world
        .server
        .route("/broken", Answer::file(world.body.clone()));
    let outcome = world.fetch("/broken").go().exits(0);
    world.is_done();
    assert_eq!(world.server.requests().len(), 5, "{outcome}");
    assert_eq!(world.asked("range"), None);
}

/// A wrong whole is wrong, however it was put together, and is not kept.
#[test]
fn a_wrong_whole_is_a_mismatch() {
    let world = World::new();
    let other = noise(8, LEN);
    world.break_off(Answer::file(other.clone()));
    world.server.route("/broken", Answer::file(other));
    world.fetch("/broken").go().exits(4).says("hash mismatch");
    assert_eq!(names_in(&world.spool()), [""; 0]);
    assert_eq!(world.env.outputs(), [""; 0]);
}

/// Servers that know no ranges, lie about them or do not like them send the whole when they are asked for it.
#[test]
fn servers_with_other_manners() {
    let world = World::new();
    for manner in [
        Manner::Whole,
        Manner::Refusing,
        Manner::WrongStart,
        Manner::Silent,
        Manner::Failing(400),
        Manner::Failing(403),
        Manner::Failing(501),
    ] {
        world.break_off(Answer::file(world.body.clone()));
        world
            .server
            .route("/broken", Answer::file(world.body.clone()).manner(manner));
        world.fetch("/broken").go().exits(0);
        world.is_done();
        fs_err::remove_file(world.env.out("big")).unwrap();
    }
}

/// What is not there, or busy, is so with and without a range: what has come is kept.
#[test]
fn a_refusal_that_is_not_about_the_range() {
    let world = World::new();
    world.break_off(Answer::file(world.body.clone()));
    for (code, exit) in [(404, 3), (429, 5), (503, 5)] {
        let before = world.server.requests().len();
        world.server.route(
            "/broken",
            Answer::file(world.body.clone()).manner(Manner::Failing(code)),
        );
        world.fetch("/broken").go().exits(exit);
        assert_eq!(world.spooled_bytes(), CUT as u64, "{code}");
        assert_eq!(world.server.requests().len(), before + 1, "{code}");
        world.env.fetch(["cache", "forget"]).go().exits(0);
    }
    // A server that always breaks over ranges is asked without one in the end.
    world.server.route(
        "/broken",
        Answer::file(world.body.clone()).manner(Manner::Failing(502)),
    );
    let run = world.env.fetch_hash(sri(&world.body)).args(["-o", "big"]);
    run.arg(world.server.url("/broken")).go().exits(0);
    world.is_done();
    assert_eq!(world.asked("range"), None);
}

/// A server that sends the whole has proved what its bytes are, whatever was there before.
#[test]
fn a_wrong_whole_is_not_asked_for_twice() {
    let world = World::new();
    world.break_off(Answer::file(world.body.clone()));
    let wrong = Answer::file(noise(9, LEN)).manner(Manner::Whole);
    world.server.route("/broken", wrong);
    let before = world.server.requests().len();
    let outcome = world.fetch("/broken").go().exits(4);
    assert_eq!(world.server.requests().len(), before + 1, "{outcome}");
    assert!(!outcome.stderr.contains("fit"), "{outcome}");
}

/// What is there is hashed once, not for every server that does not have the rest.
#[test]
fn what_is_there_is_read_once() {
    if lacks("resume::what_is_there_is_read_once", &["strace"], false) {
        return;
    }
    let world = World::new();
    world.break_off(Answer::file(world.body.clone()));
    let urls: Vec<_> = (0..6)
        .map(|number| world.server.url(&format!("/gone-{number}")))
        .collect();
    let log = world.env.path("reads");
    world
        .server
        .route("/broken", Answer::file(world.body.clone()));
    world
        .fetch("/gone")
        .args(urls)
        .arg(world.server.url("/broken"))
        .traced_calls("pread64", &log)
        .go()
        .exits(0);
    world.is_done();
    let log = fs_err::read_to_string(log).unwrap();
    let read: usize = log
        .lines()
        .filter_map(|line| line.rsplit_once(" = ")?.1.parse::<usize>().ok())
        .filter(|&read| read >= 4096)
        .sum();
    assert!((CUT..2 * CUT).contains(&read), "{read} bytes are read");
}

/// All had come when the last run was killed: it is hashed, and nobody is asked.
#[test]
fn a_whole_in_the_spool_needs_no_server() {
    let world = World::new();
    world.break_off(Answer::file(world.body.clone()));
    let part = names_in(&world.spool())
        .into_iter()
        .find(|name| name.ends_with(".part"))
        .unwrap();
    fs_err::write(world.spool().join(part), &world.body).unwrap();
    let before = world.server.requests().len();
    world.fetch("/broken").go().exits(0);
    world.is_done();
    assert_eq!(world.server.requests().len(), before);
}

/// An output is what a file made in its place would be, wherever it came from.
#[test]
fn mode_and_time_of_a_resumed_output() {
    let world = World::new();
    world.break_off(Answer::file(world.body.clone()));
    let part = names_in(&world.spool())
        .into_iter()
        .find(|name| name.ends_with(".part"))
        .unwrap();
    let part = fs_err::File::open(world.spool().join(part)).unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(3600);
    part.file().set_modified(old).unwrap();
    world
        .server
        .route("/broken", Answer::file(world.body.clone()));
    world.fetch("/broken").umask(0o027).go().exits(0);
    world.is_done();
    let metadata = fs_err::metadata(world.env.out("big")).unwrap();
    assert_eq!(mode(&world.env.out("big")), 0o640);
    assert_eq!(metadata.nlink(), 1);
    assert!(metadata.modified().unwrap().elapsed().unwrap() < Duration::from_secs(600));
}

/// What somebody linked elsewhere is not ours to write to.
#[test]
fn a_linked_partial_download_is_left_alone() {
    let world = World::new();
    world.break_off(Answer::file(world.body.clone()));
    let part = names_in(&world.spool())
        .into_iter()
        .find(|name| name.ends_with(".part"))
        .unwrap();
    let elsewhere = world.env.path("elsewhere");
    fs_err::hard_link(world.spool().join(part), &elsewhere).unwrap();
    world
        .server
        .route("/broken", Answer::file(world.body.clone()));
    world.fetch("/broken").go().exits(0);
    world.is_done();
    assert_eq!(world.asked("range"), None);
    assert!(fs_err::read(elsewhere).unwrap() == world.body[..CUT]);
}

/// A folder that is open to others is not used, and said to be so; the download works.
#[test]
fn a_folder_open_to_others_is_not_used() {
    let world = World::new();
    let folder = world.env.path("cache/fetch");
    fs_err::create_dir(&folder).unwrap();
    fs_err::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    world.server.route("/big", Answer::file(world.body.clone()));
    world.fetch("/big").go().exits(0).says("chmod 700");
    assert_eq!(names_in(&folder), [""; 0]);
    assert!(world.env.output("big") == world.body);
}

/// What is kept is closed to others, and small files are not kept at all.
#[test]
fn what_is_kept_is_private() {
    let world = World::new();
    world.server.route("/small", Answer::body("hello\n"));
    world
        .env
        .fetch_hash(sri(b"hello\n"))
        .arg(world.server.url("/small"))
        .umask(0)
        .go()
        .exits(0);
    assert_eq!(names_in(&world.spool()), [""; 0]);
    fs_err::remove_file(world.env.out("small")).unwrap();
    world.break_off(Answer::file(world.body.clone()));
    for folder in ["cache/fetch", "cache/fetch/spool", "cache/fetch/locks"] {
        assert_eq!(mode(&world.env.path(folder)), 0o700, "{folder}");
    }
    let lock = names_in(&world.env.path("cache/fetch/locks"));
    let lock = world.env.path("cache/fetch/locks").join(&lock[0]);
    assert_eq!(mode(&lock), 0o600);
}

/// Ctrl-C leaves what has come.
#[test]
fn an_interrupted_download_goes_on() {
    let world = World::new();
    world.server.route(
        "/slow",
        Answer::file(world.body.clone()).paced(64 * 1024, Duration::from_millis(20)),
    );
    let running = world.fetch("/slow").start();
    crate::support::wait_until("half of it is there", || {
        world.server.sent_bytes() > LEN as u64 / 2
    });
    running.signal(Signal::INT);
    running.wait().exits(130);
    assert_eq!(world.env.outputs(), [""; 0]);
    let kept = world.spooled_bytes();
    assert!(kept > LEN as u64 / 4, "{kept}");
    let before = world.server.sent_bytes();
    world.fetch("/slow").go().exits(0);
    world.is_done();
    let sent = world.server.sent_bytes() - before;
    // The first connection may have sent a little more before it noticed.
    let most = LEN as u64 - kept + 4 * 64 * 1024;
    assert!(sent <= most, "{sent} bytes were sent, {kept} were there");
}

/// Killed at hundreds of moments, from before it has asked to when the output gets its name: never a wrong output, never
/// anything else in its folder, and no byte is asked for twice but for those that were on their way.
#[test]
fn killed_at_hundreds_of_moments() {
    const KILLS: u64 = 250;
    const STEP: usize = 16 * 1024;
    let world = World::new();
    // 4 MiB a second: some twenty kills until it is whole.
    world.server.route(
        "/slow",
        Answer::file(world.body.clone()).paced(STEP, Duration::from_millis(4)),
    );
    let moments = noise(31, KILLS as usize);
    let (mut killed, mut wholes, mut begun) = (0, 0, 0);
    for moment in moments {
        let mut running = world.fetch("/slow").start();
        std::thread::sleep(Duration::from_millis(u64::from(moment) * 80 / 256));
        if running.is_running() {
            running.signal(Signal::KILL);
        }
        let ended = running.wait();
        if ended.was_killed() {
            killed += 1;
        } else {
            ended.exits(0);
        }
        let outputs = world.env.outputs();
        if outputs == ["big"] {
            assert!(world.env.output("big") == world.body, "other bytes");
            fs_err::remove_file(world.env.out("big")).unwrap();
            wholes += 1;
        } else {
            assert_eq!(outputs, [""; 0]);
            let spool = world.spool();
            begun += u64::from(spool.exists() && !names_in(&spool).is_empty());
        }
    }
    assert!(killed >= KILLS / 2, "only {killed} kills came in time");
    assert!(
        begun >= KILLS / 4,
        "only {begun} kills left a partial download"
    );
    world.fetch("/slow").go().exits(0);
    world.is_done();
    let (sent, whole) = (world.server.sent_bytes(), LEN as u64);
    // The step that the server was sending, and the one that had not reached the disk.
    let most = (wholes + 1) * whole + killed * 4 * STEP as u64;
    assert!(sent <= most, "{sent} bytes sent, at most {most} wanted");
    assert!(
        sent >= (wholes + 1) * whole,
        "{sent} bytes sent for {wholes} + 1 downloads"
    );
}

/// Another file system: the download goes on as well, and the output is whole.
#[test]
fn an_output_on_another_file_system() {
    let world = World::new();
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
        crate::support::skipped(
            "an_output_on_another_file_system",
            "needs /dev/shm, which cannot be written here",
        );
        return;
    };
    let output = other.path().join("big");
    world.break_off(Answer::file(world.body.clone()));
    world
        .server
        .route("/broken", Answer::file(world.body.clone()));
    world
        .env
        .fetch_hash(sri(&world.body))
        .arg("-o")
        .arg(&output)
        .arg(world.server.url("/broken"))
        .once()
        .go()
        .exits(0);
    assert!(fs_err::read(&output).unwrap() == world.body);
    assert_eq!(names_in(other.path()), ["big"]);
    assert_eq!(names_in(&world.spool()), [""; 0]);
    assert_eq!(mode(&output), 0o644);
}

/// On one file system the file that came is the output: nothing is written twice.
#[test]
fn a_large_download_is_written_once() {
    let world = World::new();
    world.server.route(
        "/slow",
        Answer::file(world.body.clone()).paced(256 * 1024, Duration::from_millis(50)),
    );
    let running = world.fetch("/slow").start();
    crate::support::wait_until("half of it is there", || {
        world.server.sent_bytes() > LEN as u64 / 2
    });
    let part = names_in(&world.spool())
        .into_iter()
        .find(|name| name.ends_with(".part"))
        .unwrap();
    let inode = fs_err::metadata(world.spool().join(part)).unwrap().ino();
    running.wait().exits(0);
    world.is_done();
    assert_eq!(fs_err::metadata(world.env.out("big")).unwrap().ino(), inode);
}

/// Mirrors behind one redirector have validators of their own.
#[test]
fn a_validator_is_for_the_server_that_gave_it() {
    let world = World::new();
    let mirrors = [Server::start(), Server::start()];
    for (mirror, tag) in mirrors.iter().zip(["one", "two"]) {
        let file = Answer::file(world.body.clone()).header(&format!("ETag: \"{tag}\""));
        mirror.route_in_turn("/big", [file.clone().cut_after(CUT), file]);
    }
    mirrors[1].route(
        "/big",
        Answer::file(world.body.clone()).header("ETag: \"two\""),
    );
    let to = |mirror: &Server| Answer::redirect(302, &mirror.url("/big"));
    world
        .server
        .route_in_turn("/big", [to(&mirrors[0]), to(&mirrors[1])]);
    world.fetch("/big").go().exits(5);
    world.fetch("/big").go().exits(0);
    world.is_done();
    let [_, second] = &mirrors;
    assert_eq!(second.requests()[0].header("if-range"), None);
    assert_eq!(second.sent_bytes(), (LEN - CUT) as u64);
}

/// Killed at any moment of a download that is then copied elsewhere: the output is absent or right, and its folder clean.
#[test]
fn killed_on_the_way_to_another_file_system() {
    const KILLS: u32 = 30;
    let world = World::new();
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
        crate::support::skipped(
            "killed_on_the_way_to_another_file_system",
            "needs /dev/shm, which cannot be written here",
        );
        return;
    };
    world.server.route("/big", Answer::file(world.body.clone()));
    let output = other.path().join("big");
    let run = || {
        world
            .env
            .fetch_hash(sri(&world.body))
            .arg("-o")
            .arg(&output)
            .arg(world.server.url("/big"))
            .once()
    };
    let started = std::time::Instant::now();
    run().go().exits(0);
    let whole = started.elapsed();
    let mut killed = 0;
    for kill in 0..KILLS {
        if output.exists() {
            fs_err::remove_file(&output).unwrap();
        }
        let running = run().start();
        std::thread::sleep(whole * kill / KILLS);
        running.signal(Signal::KILL);
        killed += u32::from(running.wait().was_killed());
        let was_done = output.exists();
        if was_done {
            assert!(fs_err::read(&output).unwrap() == world.body, "kill {kill}");
        }
        run().go().exits(0);
        assert!(fs_err::read(&output).unwrap() == world.body, "kill {kill}");
        assert_eq!(names_in(other.path()), ["big"], "kill {kill}");
        if !was_done {
            // Else what was left is for the next download to remove.
            assert_eq!(names_in(&world.spool()), [""; 0], "kill {kill}");
        }
    }
    assert!(killed >= KILLS / 4, "only {killed} kills came in time");
}
