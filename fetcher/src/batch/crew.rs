//! Several downloads at a time: how many, of which hosts, and what is tried again.
//!
//! In the first round each URL is asked once, and nobody is waited for. What failed for a reason that may pass comes
//! again in a second round, with the pauses and the patience of a single fetch. A host whose downloads fail one after
//! the other is left for the second round too, and asked without patience there once it goes on like that.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use store_index::watch::Watch;

use super::pace::{Pace, Pressure};

/// The most downloads at a time, unless the user says otherwise: as many connections as Nix has, which servers of
/// sources are used to. They may all be to one host; a server that speaks HTTP/2 has them on one connection.
pub const JOBS: usize = 25;

/// The most that a user may say: more are taken for an attack.
pub const MAX_JOBS: usize = 64;

/// After so many failures in a row a host is down for now.
const DOWN_AFTER: u32 = 8;

/// How far ahead a job is looked for whose host is not busy.
const MAX_AHEAD: usize = 256;

/// How soon an interrupt and the machine's state are noticed.
const TICK: Duration = Duration::from_millis(100);

/// A content to be downloaded.
#[derive(Debug)]
pub(super) struct Job<T> {
    pub(super) task: T,
    host: usize,
    round: u8,
}

/// How to go about a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Ask each URL once; what fails may come again.
    Once,
    /// Ask as a single fetch does.
    Full,
    /// Ask each URL once, and that was it.
    None,
}

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// It is to come again.
    pub(super) again: bool,
    /// A server, or the way to it, was in trouble.
    pub(super) trouble: bool,
    /// The content was delivered.
    pub(super) delivered: bool,
}

#[derive(Debug)]
struct Host {
    running: usize,
    pace: Pace,
    failed_in_a_row: u32,
}

#[derive(Debug)]
struct Board<T> {
    queue: VecDeque<Job<T>>,
    later: VecDeque<Job<T>>,
    hosts: Vec<Host>,
    running: usize,
    pace: Pace,
    pressure: Pressure,
    /// What was short at the last look.
    short: Option<&'static str>,
}

/// The jobs, and those who do them.
#[derive(Debug)]
pub(super) struct Crew<T> {
    board: Mutex<Board<T>>,
    /// Rings for one who waits for a job, when one more may be done.
    bell: Condvar,
    /// Rings when all is done.
    end: Condvar,
    threads: usize,
}

enum Next<T> {
    Job(Job<T>, Patience),
    Wait,
    Over,
}

impl<T: Send> Crew<T> {
    /// Takes what is to be done, each with whom it burdens.
    pub(super) fn new(tasks: impl IntoIterator<Item = (T, Option<String>)>, jobs: usize) -> Self {
        let mut numbers: HashMap<Option<String>, usize> = HashMap::new();
        let mut hosts: Vec<(Host, usize)> = Vec::new();
        let mut queue: Vec<(usize, Job<T>)> = Vec::new();
        for (task, name) in tasks {
            let host = *numbers.entry(name).or_insert_with(|| {
                let host = Host {
                    running: 0,
                    pace: Pace::new(jobs),
                    failed_in_a_row: 0,
                };
                hosts.push((host, 0));
                hosts.len() - 1
            });
            let turn = &mut hosts[host].1;
            *turn += 1;
            let round = 1;
            queue.push((*turn, Job { task, host, round }));
        }
        // One of each host, then the second of each.
        queue.sort_by_key(|(turn, _)| *turn);
        let threads = jobs.min(queue.len());
        Self {
            board: Mutex::new(Board {
                queue: queue.into_iter().map(|(_, job)| job).collect(),
                later: VecDeque::new(),
                hosts: hosts.into_iter().map(|(host, _)| host).collect(),
                running: 0,
                pace: Pace::new(jobs),
                pressure: Pressure::new(),
                short: None,
            }),
            bell: Condvar::new(),
            end: Condvar::new(),
            threads,
        }
    }

    /// Does all of it. Each thread makes itself what it works with; `tick` is called now and then.
    pub(super) fn work<W>(
        &self,
        watch: Watch<'_>,
        tools: impl Fn() -> W + Sync,
        work: impl Fn(&mut W, &T, Patience) -> Outcome + Sync,
        tick: impl Fn(),
    ) -> std::io::Result<()> {
        std::thread::scope(|scope| {
            let mut threads = 0;
            for _ in 0..self.threads {
                let worker = || {
                    let mut tools = tools();
                    while let Some((job, patience)) = self.take(watch) {
                        let begun = Instant::now();
                        let outcome = work(&mut tools, &job.task, patience);
                        self.give_back(job, outcome, begun);
                    }
                };
                match std::thread::Builder::new()
                    .name("fetch".into())
                    .spawn_scoped(scope, worker)
                {
                    Ok(_) => threads += 1,
                    // Those that are there do it as well.
                    Err(_) if threads > 0 => break,
                    Err(error) => return Err(error),
                }
            }
            let mut board = self.board();
            while board.is_left() && !watch.interrupted() {
                let waited = self.end.wait_timeout(board, TICK);
                board = waited.unwrap_or_else(PoisonError::into_inner).0;
                tick();
            }
            Ok(())
        })
    }

    fn board(&self) -> MutexGuard<'_, Board<T>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a job; `None` when all is done, or nothing more is wanted.
    fn take(&self, watch: Watch<'_>) -> Option<(Job<T>, Patience)> {
        let mut board = self.board();
        loop {
            if watch.interrupted() {
                return None;
            }
            let now = Instant::now();
            if board.pressure.is_due(now) {
                let short = board.pressure.look();
                if let Some(short) = short {
                    if board.short.is_none() {
                        let note = format!("{short}: fewer downloads at a time until that is over");
                        watch.progress.note(&note);
                    }
                    board.pace.slower(now, now);
                }
                board.short = short;
            }
            match board.next() {
                Next::Job(job, patience) => return Some((job, patience)),
                Next::Over => return None,
                Next::Wait => {
                    let waited = self.bell.wait_timeout(board, TICK);
                    board = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    fn give_back(&self, mut job: Job<T>, outcome: Outcome, begun: Instant) {
        let mut board = self.board();
        let now = Instant::now();
        board.running -= 1;
        let host = &mut board.hosts[job.host];
        host.running -= 1;
        if outcome.trouble {
            host.pace.slower(begun, now);
            host.failed_in_a_row += u32::from(!outcome.delivered);
            board.pace.slower(begun, now);
        } else {
            host.pace.faster();
            host.failed_in_a_row = 0;
            if board.short.is_none() {
                board.pace.faster();
            }
        }
        if outcome.again {
            job.round += 1;
            board.later.push_back(job);
        }
        let is_left = board.is_left();
        drop(board);
        if is_left {
            // Whoever gives back takes the next one; there may be room for one more.
            self.bell.notify_one();
        } else {
            self.bell.notify_all();
            self.end.notify_all();
        }
    }
}

impl<T> Board<T> {
    /// Returns true if something is being done, or to be done.
    fn is_left(&self) -> bool {
        self.running > 0 || !self.queue.is_empty() || !self.later.is_empty()
    }

    fn next(&mut self) -> Next<T> {
        if self.queue.is_empty() && self.running == 0 && !self.later.is_empty() {
            std::mem::swap(&mut self.queue, &mut self.later);
            for host in &mut self.hosts {
                host.failed_in_a_row = 0;
            }
        }
        if self.queue.is_empty() {
            return match self.running {
                0 => Next::Over,
                _ => Next::Wait,
            };
        }
        if self.running >= self.pace.limit() {
            return Next::Wait;
        }
        let mut at = 0;
        while at < self.queue.len().min(MAX_AHEAD) {
            let job = &self.queue[at];
            let host = &mut self.hosts[job.host];
            let is_down = host.failed_in_a_row >= DOWN_AFTER;
            if is_down && job.round == 1 {
                if let Some(mut job) = self.queue.remove(at) {
                    job.round += 1;
                    self.later.push_back(job);
                }
                continue;
            }
            if host.running >= host.pace.limit() {
                at += 1;
                continue;
            }
            let patience = match (job.round, is_down) {
                (1, _) => Patience::Once,
                (_, false) => Patience::Full,
                (_, true) => Patience::None,
            };
            host.running += 1;
            self.running += 1;
            if let Some(job) = self.queue.remove(at) {
                return Next::Job(job, patience);
            }
        }
        match (self.running, self.queue.is_empty()) {
            // All that was left has been put off.
            (0, true) if !self.later.is_empty() => self.next(),
            _ => Next::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;
    use store_index::watch::NoProgress;

    const GOOD: Outcome = Outcome {
        again: false,
        trouble: false,
        delivered: true,
    };

    fn work(crew: &Crew<usize>, job: impl Fn(usize, Patience) -> Outcome + Sync) {
        // Whatever else runs on this machine.
        crew.board().pressure = Pressure::of_an_idle_machine();
        let interrupt = AtomicBool::new(false);
        let watch = Watch {
            interrupt: &interrupt,
            progress: &NoProgress,
        };
        crew.work(
            watch,
            || (),
            |(), &task, patience| job(task, patience),
            || (),
        )
        .unwrap();
    }

    #[test]
    fn every_job_is_done_once_and_never_too_many_at_a_time() {
        let tasks = (0..300).map(|number| (number, Some(format!("host {}", number % 2))));
        const JOBS: usize = 16;
        let crew = Crew::new(tasks, JOBS);
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let done = Mutex::new(Vec::new());
        work(&crew, |task, patience| {
            assert_eq!(patience, Patience::Once);
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(2));
            running.fetch_sub(1, Ordering::SeqCst);
            done.lock().unwrap().push(task);
            GOOD
        });
        let mut done = done.into_inner().unwrap();
        done.sort_unstable();
        assert_eq!(done, (0..300).collect::<Vec<_>>());
        let most = most.into_inner();
        assert!((5..=JOBS).contains(&most), "{most}");
    }

    /// A host that is down is asked a few times, then put off, and then asked without patience.
    #[test]
    fn a_host_that_is_down_holds_nobody_up() {
        let tasks = (0..200).map(|number| {
            let host = if number < 100 { "down" } else { "up" };
            (number, Some(host.to_owned()))
        });
        let crew = Crew::new(tasks, 8);
        let asked = Mutex::new(Vec::new());
        work(&crew, |task, patience| {
            asked.lock().unwrap().push((task, patience));
            if task >= 100 {
                return GOOD;
            }
            Outcome {
                again: patience == Patience::Once,
                trouble: true,
                delivered: false,
            }
        });
        let asked = asked.into_inner().unwrap();
        let count = |wanted: Patience| {
            let of_down = asked.iter().filter(|(task, _)| *task < 100);
            of_down.filter(|(_, patience)| *patience == wanted).count()
        };
        let most = DOWN_AFTER as usize + 8;
        assert!((8..=most).contains(&count(Patience::Once)), "{asked:?}");
        assert!((8..=most).contains(&count(Patience::Full)), "{asked:?}");
        assert_eq!(count(Patience::Full) + count(Patience::None), 100);
        let last_up = asked.iter().rposition(|(task, _)| *task >= 100);
        let first_full = asked
            .iter()
            .position(|(_, patience)| *patience == Patience::Full);
        assert!(last_up < first_full, "{asked:?}");
    }
}
