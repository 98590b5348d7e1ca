//! A persistent team of threads that is cheap to wake.
//!
//! A decode step has about a hundred parallel sections of some tens of microseconds each. So after
//! a section, the team's threads spin for a short while before they sleep, and the tasks of a
//! section are claimed from one counter. A section waits only for threads that have entered it: if
//! the system has given a thread to another program, the others do its share.

// A section borrows from its caller's stack. Its lifetime is erased to pass it to threads that
// outlive it.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{JoinHandle, Thread};

use super::split::{Split, chunks};

/// How often a thread polls the gate before it sleeps: about 50 microseconds. Miri interprets every
/// poll, and a short wait lets it see threads sleep and wake.
const SPINS: u32 = if cfg!(miri) { 8 } else { 4000 };

/// A section: called once on each thread with the thread's index.
type Section = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// The gate in one word: the number of workers in the section (low 16 bits), whether more may
    /// enter ([`OPEN`]), and the section's number (the bits above).
    gate: AtomicU64,
    /// Written by the leader while the gate is closed and no worker is inside.
    section: UnsafeCell<Option<Section>>,
    panicked: AtomicBool,
    stop: AtomicBool,
    seats: Vec<Seat>,
}

/// The place of one worker.
#[derive(Default)]
struct Seat {
    asleep: AtomicBool,
    /// The thread that took the seat.
    thread: OnceLock<Thread>,
}

impl Seat {
    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// Set in [`Shared::gate`] while workers may enter the section.
const OPEN: u64 = 1 << 16;
/// Mask for the number of workers inside.
const INSIDE: u64 = OPEN - 1;
/// Increment of the section's number.
const NEXT: u64 = 1 << 17;

// SAFETY: `section` is written only by the leader (which holds `Team::leader`) while the gate is
// closed and no worker is inside. Workers read it only between entering (possible while the gate is
// open) and leaving, and the leader closes the gate and waits until no worker is inside before it
// returns. The other fields are atomics.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `section` is followed only while the section runs.
unsafe impl Send for Shared {}

/// Threads that run sections together with the calling thread.
pub(crate) struct Team {
    shared: Arc<Shared>,
    /// The threads that the team started itself.
    workers: Vec<JoinHandle<()>>,
    /// The lock allows one section at a time.
    leader: Mutex<()>,
}

/// The work of one of the computing threads, passed to [`Spawn`].
#[must_use = "a team thread does nothing unless it is run"]
pub struct TeamThread {
    shared: Arc<Shared>,
    index: usize,
}

impl TeamThread {
    /// Computes with the other threads until the model is dropped. A late or missing thread never
    /// delays a section.
    pub fn run(self) {
        let Some(seat) = self.shared.seats.get(self.index - 1) else { return };
        // There is one `TeamThread` per seat.
        let _ = seat.thread.set(std::thread::current());
        work(&self.shared, self.index);
    }
}

impl std::fmt::Debug for TeamThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TeamThread {}", self.index)
    }
}

/// Spawns the team's threads. Replace the standard library's spawning to set their priority,
/// affinity or name, or where it can't start threads, as in a browser. Each [`TeamThread`] must run
/// on its own thread, starting at any time.
#[derive(Clone)]
pub struct Spawn(Arc<dyn Fn(TeamThread) -> std::io::Result<()> + Send + Sync>);

impl Spawn {
    /// Spawns threads with `spawn`. The threads end soon after the model is dropped, which doesn't
    /// wait for them.
    pub fn new(spawn: impl Fn(TeamThread) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(spawn))
    }
}

impl std::fmt::Debug for Spawn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Spawn")
    }
}

impl Team {
    /// A team of `threads` threads, including the caller's, started by `spawn` or else by the
    /// standard library.
    ///
    /// # Errors
    /// If the system can't start a thread.
    pub(crate) fn new(threads: usize, spawn: Option<&Spawn>) -> std::io::Result<Self> {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            section: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            seats: (1..threads).map(|_| Seat::default()).collect(),
        });
        let mut team = Self { shared, workers: Vec::new(), leader: Mutex::new(()) };
        for index in 1..threads {
            let thread = TeamThread { shared: team.shared.clone(), index };
            if let Some(Spawn(spawn)) = spawn {
                spawn(thread)?;
            } else {
                let named = std::thread::Builder::new().name(format!("kinglet-{index}"));
                team.workers.push(named.spawn(move || thread.run())?);
            }
        }
        Ok(team)
    }

    /// Number of threads, including the caller's.
    pub(crate) fn threads(&self) -> usize {
        self.shared.seats.len() + 1
    }

    /// Calls `f(i, part i of split)` for each `i < count`, on any free thread.
    pub(crate) fn for_each<S: Split>(
        &self,
        count: usize,
        split: S,
        f: impl Fn(usize, S::Part) + Sync,
    ) {
        self.claim(count, |_, index| {
            // SAFETY: `claim` hands out each index once.
            f(index, unsafe { split.part(index) });
        });
    }

    /// Like [`Team::for_each`], with scratch memory per thread: `locals` has one element for each.
    pub(crate) fn for_each_with<L: Send, S: Split>(
        &self,
        locals: &mut [L],
        count: usize,
        split: S,
        f: impl Fn(&mut L, usize, S::Part) + Sync,
    ) {
        assert!(locals.len() >= self.threads(), "scratch for every thread");
        let locals = chunks(locals, 1);
        self.claim(count, |thread, index| {
            // SAFETY: a thread's index is used by one task at a time, and `claim` hands out each
            // index once.
            let (local, part) = unsafe { (locals.part(thread), split.part(index)) };
            if let [local] = local {
                f(local, index, part);
            }
        });
    }

    fn claim(&self, count: usize, task: impl Fn(usize, usize) + Sync) {
        if count <= 1 || self.shared.seats.is_empty() {
            return (0..count).for_each(|index| task(0, index));
        }
        let next = AtomicUsize::new(0);
        self.section(&|thread| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return;
                }
                task(thread, index);
            }
        });
    }

    /// Runs `section` on this thread and on every worker that arrives in time, and waits for those.
    ///
    /// # Panics
    /// If the section panicked on some thread, after all threads have left it.
    fn section(&self, section: &(dyn Fn(usize) + Sync)) {
        let guard = self.leader.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let shared = &*self.shared;
        let section_ptr: *const (dyn Fn(usize) + Sync + '_) = section;
        // SAFETY: the lifetime is erased. Workers follow the pointer only while they are inside,
        // and this function neither returns nor unwinds before the gate is closed and no worker is
        // inside.
        let erased: Section = unsafe { std::mem::transmute(section_ptr) };
        // SAFETY: the gate is closed and no worker is inside: we hold `leader`, and the last leader
        // waited for that.
        unsafe { *shared.section.get() = Some(erased) };
        // SeqCst here and on `Seat::asleep`: either a worker sees the open gate before it sleeps,
        // or we see that it sleeps.
        let gate = shared.gate.load(Ordering::Relaxed);
        shared.gate.store((gate & !INSIDE).wrapping_add(NEXT) | OPEN, Ordering::SeqCst);
        for seat in &shared.seats {
            if seat.asleep.load(Ordering::SeqCst) {
                seat.wake();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| section(0)));
        shared.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0u32;
        while shared.gate.load(Ordering::Acquire) & INSIDE != 0 {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        drop(guard);
        if let Err(panic) = own {
            std::panic::resume_unwind(panic);
        }
        assert!(!panicked, "a worker thread panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.seats.iter().for_each(Seat::wake);
        for worker in self.workers.drain(..) {
            // A worker catches its sections' panics, so it ends by returning.
            let _ = worker.join();
        }
    }
}

/// The loop of a worker.
fn work(shared: &Shared, index: usize) {
    // Number of the last section that this worker was in.
    let mut seen = 0;
    while let Some(number) = enter(shared, index, seen) {
        seen = number;
        // SAFETY: we are inside, so the leader has written the section and waits for us.
        let section = unsafe { *shared.section.get() };
        if let Some(section) = section {
            // SAFETY: the leader keeps the section alive while a worker is inside.
            let section = unsafe { &*section };
            if catch_unwind(AssertUnwindSafe(|| section(index))).is_err() {
                shared.panicked.store(true, Ordering::Relaxed);
            }
        }
        shared.gate.fetch_sub(1, Ordering::Release);
    }
}

/// Waits for a section other than `seen` and enters it, spinning for a while and then sleeping.
/// `None` if the team has ended.
fn enter(shared: &Shared, index: usize, seen: u64) -> Option<u64> {
    let asleep = &shared.seats[index - 1].asleep;
    let mut spins = 0;
    loop {
        let gate = shared.gate.load(Ordering::SeqCst);
        if gate & OPEN != 0 && gate / NEXT != seen {
            let inside = gate + 1;
            let entered =
                shared.gate.compare_exchange(gate, inside, Ordering::Acquire, Ordering::Relaxed);
            if entered.is_ok() {
                asleep.store(false, Ordering::SeqCst);
                return Some(gate / NEXT);
            }
            continue;
        }
        if shared.stop.load(Ordering::SeqCst) {
            return None;
        }
        spins += 1;
        if spins < SPINS {
            std::hint::spin_loop();
        } else if asleep.swap(true, Ordering::SeqCst) {
            std::thread::park();
        }
        // A worker polls the gate once more between announcing that it sleeps and sleeping.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Repetitions of a test: fewer under Miri.
    const fn rounds(native: u32) -> u32 {
        if cfg!(miri) { native.div_ceil(25) } else { native }
    }

    #[test]
    fn every_task_runs_once_awake_or_asleep() {
        for threads in [1, 2, 5] {
            let team = Team::new(threads, None).unwrap();
            for round in 0..rounds(200) {
                let mut counts = vec![0u32; 37];
                let mut locals = vec![0u32; threads];
                team.for_each_with(&mut locals, 37, chunks(&mut counts, 1), |local, i, part| {
                    part[0] += i as u32 + round;
                    *local += 1;
                });
                assert!(counts.iter().zip(0..).all(|(&c, i)| c == i + round));
                assert_eq!(locals.iter().sum::<u32>(), 37);
                if round.is_multiple_of(rounds(50)) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    #[test]
    fn threads_that_somebody_else_starts_may_come_late_or_never() {
        let (send, receive) = std::sync::mpsc::channel();
        let spawn = Spawn::new(move |thread| send.send(thread).map_err(std::io::Error::other));
        let team = Team::new(3, Some(&spawn)).unwrap();
        assert_eq!(team.threads(), 3);
        let sum = |team: &Team| {
            let mut counts = vec![0usize; 37];
            team.for_each(37, chunks(&mut counts, 1), |i, part| part[0] += i);
            counts.iter().sum::<usize>()
        };
        assert_eq!(sum(&team), 36 * 37 / 2);
        let late = receive.recv().unwrap();
        let ran = std::thread::spawn(move || late.run());
        // Until the late thread has slept and worked again.
        for _ in 0..rounds(20).max(3) {
            assert_eq!(sum(&team), 36 * 37 / 2);
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(team);
        ran.join().unwrap();
        // A thread that starts after the end returns at once.
        receive.recv().unwrap().run();
        let refused = Spawn::new(|_| Err(std::io::Error::other("no more")));
        assert!(Team::new(2, Some(&refused)).is_err());
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        let team = Team::new(3, None).unwrap();
        for bad in [0, 17, 63] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.for_each(64, (), |i, ()| assert!(i != bad, "task {i}"));
            }));
            assert!(caught.is_err());
        }
        let mut sums = [0usize; 64];
        team.for_each(64, chunks(&mut sums, 1), |i, part| part[0] = i);
        assert!(sums.iter().enumerate().all(|(i, &s)| s == i));
    }

    #[test]
    fn several_callers_take_turns() {
        let team = Team::new(2, None).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..rounds(100) {
                        let mut counts = [0u8; 16];
                        team.for_each(16, chunks(&mut counts, 1), |_, part| part[0] += 1);
                        assert_eq!(counts, [1; 16]);
                    }
                });
            }
        });
    }
}
