//! Recordings of small models, made without a device.

use std::path::Path;

use kinglet_shaders::Kernel;

use super::*;
use crate::backend::gpu::adapter::{AdapterInfo, AdapterKind};
use crate::backend::gpu::builder::{RecordOptions, record};
use crate::backend::gpu::capabilities::Capabilities;
use crate::backend::gpu::target::{DeviceOptions, Target};
use crate::plan::Plan;
use crate::weights::CheckOptions;
use crate::weights::checkpoint::Checkpoint;

/// A device with WebGPU's default limits and nothing beyond.
pub(in super::super) fn target() -> Target {
    let capabilities = Capabilities::default();
    let info = AdapterInfo {
        index: 0,
        name: "none".into(),
        kind: AdapterKind::Other,
        api: "none".into(),
        driver: String::new(),
        subgroups: None,
        capabilities,
        max_binding: 128 << 20,
        max_buffer: 256 << 20,
        unusable: None,
    };
    let options = DeviceOptions::default();
    Target::new(info, capabilities, [256 << 20, 128 << 20], 65535, options)
}

fn checkpoint(case: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(case);
    Checkpoint::open(&folder, CheckOptions::default()).unwrap()
}

pub(in super::super) fn plan(case: &str) -> Plan {
    Plan::new(&checkpoint(case).spec)
}

fn recording(case: &str) -> Recording {
    let checkpoint = checkpoint(case);
    let plan = Plan::new(&checkpoint.spec);
    let options =
        RecordOptions { chunk: 64, most_turns: usize::MAX, logit_bytes: 1 << 20, exact: true };
    record(&target(), &plan, &checkpoint.weights, &options).unwrap().0
}

/// Runs of sessions by themselves.
fn apart(tokens: &[usize]) -> Vec<RunSize> {
    tokens.iter().enumerate().map(|(pool, &tokens)| RunSize { tokens, pool }).collect()
}

/// Runs of sessions that share a pool.
fn pooled(tokens: &[usize]) -> Vec<RunSize> {
    tokens.iter().map(|&tokens| RunSize { tokens, pool: 0 }).collect()
}

#[test]
fn runs_of_a_pool_are_one_call() {
    for case in ["mamba2/plain", "xlstm/plain", "mamba/plain", "bamba/plain", "qwen3_next/plain"] {
        let recording = recording(case);
        let count = |runs: &[RunSize], scope| {
            let calls = recording.step(runs, false).into_iter();
            calls.filter(|call| recording.launches[call.launch].scope == scope).count()
        };
        let one = count(&apart(&[1]), Scope::Runs);
        assert!(one > 0, "{case}");
        assert_eq!(count(&pooled(&[1; 8]), Scope::Runs), one, "{case}");
        assert_eq!(count(&pooled(&[1, 4, 2]), Scope::Runs), one, "{case}");
        assert_eq!(count(&pooled(&[1; MOST_RUNS + 1]), Scope::Runs), 2 * one, "{case}");
        assert_eq!(count(&apart(&[1; 3]), Scope::Runs), 3 * one, "{case}");
        // Attention goes run by run.
        let run = count(&apart(&[1]), Scope::Run);
        assert_eq!(count(&pooled(&[1; 3]), Scope::Run), 3 * run, "{case}");
    }
    // Calls name their runs, and a run of many tokens is by itself.
    let recording = recording("mamba2/plain");
    let mut sizes = pooled(&[1, 2, 9]);
    sizes[2].pool = 1;
    let text = recording.list(&recording.step(&sizes, false)).to_string();
    assert!(text.contains("mamba2_scan.step.f32.workgroup  6 x 1  runs 0 .. 2  reads"), "{text}");
    assert!(text.contains("mamba2_scan.scores  1 x 1  run 2  reads"), "{text}");
}

#[test]
fn a_decode_step_is_printed_one_launch_a_line() {
    let recording = recording("mamba2/plain");
    let mut calls = recording.step(&apart(&[1]), false);
    recording.logits(2, 1, &mut calls);
    let text = recording.list(&calls).to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), calls.len(), "{text}");
    let first = "   0  embed.f32  1 x 1  reads backbone.embeddings.weight, tokens  writes slot 0";
    assert_eq!(lines[0], first);
    assert!(
        lines[2].starts_with("   2  mamba2_scan.step.f32.workgroup  6 x 1  run 0  reads slot 1, "),
        "{text}"
    );
    assert!(lines[2].ends_with("  writes state 0.0, state 1.0, slot 2  after 1"), "{text}");
    assert!(lines[7].starts_with("   7  head.rows.f32.workgroup  4 x 1  reads "), "{text}");
    assert!(lines[7].ends_with("  writes logits  after 6"), "{text}");
}

#[test]
fn calls_that_share_memory_are_ordered_and_no_others() {
    for case in ["mamba2/plain", "mixtral/plain", "bamba/plain", "xlstm/plain", "mamba/plain"] {
        let recording = recording(case);
        for runs in [apart(&[1]), apart(&[1, 1]), pooled(&[1, 3, 1]), pooled(&[2, 1, 40])] {
            let mut calls = recording.step(&runs, false);
            recording.logits(1 + runs.len(), 1, &mut calls);
            let dependencies = recording.dependencies(&calls);
            // reached[j] has the calls that must have ended before j.
            let mut reached: Vec<Vec<bool>> = Vec::new();
            for before in &dependencies {
                let mut own = vec![false; calls.len()];
                for &earlier in before {
                    own[earlier] = true;
                    own.iter_mut().zip(&reached[earlier]).for_each(|(own, also)| *own |= also);
                }
                reached.push(own);
            }
            let places = |call: &Call| {
                let places = |binding: &Binding| {
                    let (resource, access) = (binding.resource, binding.access);
                    let runs: Vec<_> = match resource {
                        Resource::State(..) => call.runs().map(Some).collect(),
                        Resource::Params | Resource::Step | Resource::Runs => Vec::new(),
                        Resource::Memory(_) => vec![None],
                    };
                    runs.into_iter().map(move |run| ((resource, run), access))
                };
                recording.launches[call.launch].bindings.iter().flat_map(places).collect::<Vec<_>>()
            };
            for (later, call) in calls.iter().enumerate() {
                let own = places(call);
                for earlier in 0..later {
                    let conflict = places(&calls[earlier]).iter().any(|(place, access)| {
                        own.iter().any(|(other, also)| {
                            place == other && (*access == Access::Write || *also == Access::Write)
                        })
                    });
                    assert!(!conflict || reached[later][earlier], "{case}: {later} on {earlier}");
                    let direct = dependencies[later].contains(&earlier);
                    assert!(conflict || !direct, "{case}: {later} waits for {earlier}");
                }
            }
        }
    }
}

#[test]
fn every_call_of_a_step_has_workgroups_within_the_limits() {
    let recording = recording("mixtral/plain");
    for runs in [&[1][..], &[64], &[5, 4, 1]] {
        for call in recording.step(&pooled(runs), false) {
            assert!(call.groups.iter().all(|groups| (1..=65535).contains(groups)), "{call:?}");
            assert!(call.step <= runs.len());
            let of_run = [Scope::Run, Scope::Runs].contains(&recording.launches[call.launch].scope);
            assert_eq!(call.run.is_some(), of_run);
        }
    }
    // Rows that are there already are not embedded.
    let one = apart(&[1]);
    assert_eq!(recording.step(&one, true).len() + 1, recording.step(&one, false).len());
}

#[test]
fn the_norm_of_an_mlstm_goes_with_the_projection_for_few_tokens() {
    let recording = recording("xlstm/plain");
    for (tokens, finishes) in [(1, false), (40, true)] {
        let calls = recording.step(&apart(&[tokens]), false);
        let kernels = calls.iter().map(|call| recording.launches[call.launch].variant.kernel());
        let count = |kernel| kernels.clone().filter(|own| *own == kernel).count();
        assert_eq!(count(Kernel::MLstmFinish) > 0, finishes);
        assert_eq!(count(Kernel::LinearHeadRows) > 0, !finishes);
    }
}
