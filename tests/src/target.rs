//! The targets that tests run on. Only this module knows which backends there are.
//!
//! Without an adapter for wgpu a test prints a note to standard error; with
//! `KINGLET_REQUIRE_WGPU=1` in the environment, as in CI, it fails. `KINGLET_TEST_ADAPTER=N`
//! selects the adapter. `KINGLET_TEST_ONLY=wgpu` runs ops only there. `KINGLET_TEST_ONLY=subgroups`
//! runs them only on kernels that reduce within subgroups, if possible, cut in fewer ways, and one
//! in four of those without weights. `KINGLET_TEST_ONLY=neon`, or another instruction set, runs
//! them only on that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kinglet::backend::{Executable, compile};
use kinglet::models::Matrix;
use kinglet::op::{BufferId, Embed, Head, Op};
use kinglet::plan::{Buffer, Plan};
use kinglet::testing::DeviceLimits;
use kinglet::{Activations, Backend, Isa, ModelOptions};

use crate::tensors::{Stored, Tensors};

/// A backend with its options, and the required accuracy relative to the reference.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name for messages.
    pub name: String,
    /// Backend, instruction set, threads.
    pub options: ModelOptions,
    /// Bound on the relative error of one op with short sums; see
    /// [`Rig::check`](crate::rig::Rig::check).
    pub bound: f64,
    /// Whether only products with weights differ from another target's.
    pub products_only: bool,
}

/// Every target on which an op must give the same results: on the CPU every supported instruction
/// set, with 1, 2 and 3 threads; on wgpu each reduction and each precision.
pub fn targets() -> Vec<Target> {
    let only = std::env::var("KINGLET_TEST_ONLY").unwrap_or_default();
    let only_wgpu = ["wgpu", "subgroups"].contains(&&*only);
    let mut targets = Vec::new();
    let all = Isa::available();
    let only_isa = all.iter().copied().find(|isa| isa.name() == only);
    let isas = match only_isa {
        Some(isa) => vec![isa],
        None if only_wgpu => Vec::new(),
        None => all,
    };
    for isa in isas {
        for threads in if only_isa.is_some() { 2..=2 } else { 1..=3 } {
            targets.push(Target {
                name: format!("cpu {} threads {threads}", isa.name()),
                options: ModelOptions::new().backend(Backend::Cpu).isa(isa).threads(threads),
                bound: 2e-6,
                products_only: false,
            });
        }
    }
    if only_isa.is_some() {
        return targets;
    }
    let mut wgpu = wgpu_targets();
    if only == "subgroups" {
        wgpu.truncate(1);
    }
    let exact = |target: &Target| Target {
        options: target.options.clone().activations(Activations::F32),
        ..target.clone()
    };
    targets.extend(wgpu.iter().map(exact));
    // The fastest arithmetic of the device: weights and activations in f16 for many tokens. Each
    // has a relative error of 2^-11, and so has each of up to 64 sums.
    targets.extend(wgpu.into_iter().take(1).map(|target| Target {
        name: format!("{} in f16", target.name),
        bound: HALF_BOUND,
        products_only: true,
        ..target
    }));
    targets
}

/// Bound on the relative error of one op in f16.
const HALF_BOUND: f64 = 1e-2;

/// The targets on wgpu; none without an adapter.
pub fn wgpu_targets() -> Vec<Target> {
    let Some(adapter) = adapter() else { return Vec::new() };
    // The self-test has its own tests.
    let options = ModelOptions::new().backend(Backend::Wgpu).adapter(adapter).self_test(false);
    let number = lane();
    let target = |name: &str, avoid_subgroups: bool| Target {
        name: name.into(),
        options: options.clone().device_limits(DeviceLimits {
            avoid_subgroups,
            max_binding: None,
            number,
        }),
        bound: 1e-5,
        products_only: false,
    };
    let targets = vec![target("wgpu", false), target("wgpu without subgroups", true)];
    // The devices stay open for the whole process, so that each compiles its kernels once.
    static HELD: Mutex<BTreeMap<usize, Vec<Box<dyn Executable>>>> = Mutex::new(BTreeMap::new());
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    held.entry(number).or_insert_with(|| targets.iter().map(hold).collect());
    targets
}

/// The number of the devices that this thread's tests run on. A device runs one step after another,
/// so there are as many numbers as processors. A thread takes the number with the fewest other
/// threads and keeps it until it ends.
#[cfg(feature = "wgpu")]
fn lane() -> usize {
    static THREADS: Mutex<Vec<usize>> = Mutex::new(Vec::new());
    struct Lane(usize);
    impl Drop for Lane {
        fn drop(&mut self) {
            THREADS.lock().unwrap_or_else(PoisonError::into_inner)[self.0] -= 1;
        }
    }
    fn take() -> Lane {
        let mut threads = THREADS.lock().unwrap_or_else(PoisonError::into_inner);
        let lanes = std::thread::available_parallelism().map_or(1, usize::from);
        threads.resize(lanes, 0);
        let lane = (0..lanes).min_by_key(|&lane| threads[lane]).unwrap_or(0);
        threads[lane] += 1;
        Lane(lane)
    }
    thread_local! { static LANE: Lane = take() }
    LANE.with(|lane| lane.0)
}

/// No number in tests built without wgpu.
#[cfg(not(feature = "wgpu"))]
fn lane() -> usize {
    0
}

/// No targets in tests built without wgpu.
#[cfg(not(feature = "wgpu"))]
fn adapter() -> Option<usize> {
    None
}

/// Index of the adapter for tests.
#[cfg(feature = "wgpu")]
fn adapter() -> Option<usize> {
    static ADAPTER: OnceLock<Option<usize>> = OnceLock::new();
    *ADAPTER.get_or_init(|| {
        if let Ok(number) = std::env::var("KINGLET_TEST_ADAPTER") {
            return Some(number.parse().expect("KINGLET_TEST_ADAPTER should be a number"));
        }
        let all = pollster::block_on(kinglet::adapters());
        let found = all.iter().find(|adapter| adapter.unusable.is_none());
        if found.is_none() {
            let list: Vec<_> = all.iter().map(ToString::to_string).collect();
            let text = format!("NOTHING RUNS ON WGPU HERE: no usable adapter among {list:?}\n");
            assert!(std::env::var_os("KINGLET_REQUIRE_WGPU").is_none(), "{text}");
            // Bypasses the capture of passing tests' output.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
        }
        found.map(|adapter| adapter.index)
    })
}

/// A small executable that keeps the target's device open.
fn hold(target: &Target) -> Box<dyn Executable> {
    let mut tensors = Tensors::default();
    tensors.push("one", &[1, 1], Stored::F32, &[1.0]);
    let (table, x) = (Matrix::whole("one", 1, 1), BufferId(0));
    let linear = table.clone().into();
    let plan = Plan {
        hidden: 1,
        vocab: 1,
        ops: vec![
            Op::Embed(Embed { table: Some(table), scale: 1.0, output: x }),
            Op::Head(Head { input: x, norm: None, linear, scale: 1.0, soft_cap: None }),
        ],
        buffers: vec![Buffer { name: "x", width: 1, slot: 0 }],
        slots: vec![1],
        states: Vec::new(),
    };
    compile(Arc::new(plan), &tensors.weights(), &target.options)
        .unwrap_or_else(|e| panic!("{}: {e}", target.name))
}
