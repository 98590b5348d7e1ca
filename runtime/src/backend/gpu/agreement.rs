//! Constants that are written both in a kernel and in the host's code: how much a workgroup takes, and for how much it has memory. This test
//! compares them.

use kinglet_shaders::{Kernel, Variant};

use super::{
    attention, bandwidth, gated_delta_scan, head_linear, mamba_scan, mamba2_scan, memory,
    mlstm_scan, moe_down, moe_route, params, projection, recording, sample,
};

/// The constant `name` of `kernel`, which must be the same in every variant.
fn constant(kernel: Kernel, name: &str) -> usize {
    let head = format!("const {name}: u32 = ");
    let values = Variant::all().into_iter().filter(|variant| variant.kernel() == kernel);
    let mut values: Vec<usize> = values
        .map(|variant| {
            let source = kinglet_shaders::source(variant).unwrap();
            let found = source.lines().find_map(|line| line.strip_prefix(&head));
            let number = found.unwrap_or_else(|| panic!("{} has no {name}", variant.name()));
            let number = number.trim_end_matches(';').trim_end_matches('u');
            match number.strip_prefix("0x") {
                Some(digits) => usize::from_str_radix(digits, 16).unwrap(),
                None => number.parse().unwrap(),
            }
        })
        .collect();
    values.dedup();
    assert_eq!(values.len(), 1, "{kernel:?} {name}: {values:?}");
    values[0]
}

#[test]
fn host_and_kernels_agree() {
    use Kernel::*;
    for (ours, kernel, name) in [
        (mamba_scan::CHANNELS, MambaScan, "CHANNELS"),
        (mamba2_scan::COLUMNS, Mamba2Step, "COLUMNS"),
        (mamba2_scan::COLUMNS, Mamba2StepAny, "COLUMNS"),
        (mamba2_scan::THREADS, Mamba2Convolve, "THREADS"),
        (mamba2_scan::THREADS, Mamba2Pass, "THREADS"),
        (mamba2_scan::SIDE, Mamba2States, "SIDE"),
        (mamba2_scan::SIDE, Mamba2Outputs, "SIDE"),
        (recording::FEW, Mamba2Step, "MOST"),
        (mamba2_scan::COLUMNS, LinearAttentionStep, "COLUMNS"),
        (mamba2_scan::COLUMNS, LinearAttentionStepAny, "COLUMNS"),
        (mamba2_scan::THREADS, LinearAttentionPass, "THREADS"),
        (mamba2_scan::SIDE, LinearAttentionStates, "SIDE"),
        (mamba2_scan::SIDE, LinearAttentionOutputs, "SIDE"),
        (recording::FEW, LinearAttentionStep, "MOST"),
        (mlstm_scan::COLUMNS, MLstmStep, "COLUMNS"),
        (mlstm_scan::THREADS, MLstmPass, "THREADS"),
        (mlstm_scan::SIDE, MLstmStates, "SIDE"),
        (mlstm_scan::SIDE, MLstmOutputs, "SIDE"),
        (recording::FEW, MLstmStep, "MOST"),
        (gated_delta_scan::COLUMNS, DeltaStep, "COLUMNS"),
        (gated_delta_scan::COLUMNS, DeltaPass, "COLUMNS"),
        (gated_delta_scan::MAX_KEYS, DeltaStep, "THREADS"),
        (gated_delta_scan::SIDE, DeltaOutputs, "SIDE"),
        (recording::FEW, DeltaStep, "MOST"),
        (head_linear::OUTPUTS[0], HeadLinearRows, "OUTPUTS"),
        (head_linear::OUTPUTS[1], HeadLinearColumns, "OUTPUTS"),
        (head_linear::TOKENS, HeadLinearRows, "TOKENS"),
        (head_linear::TOKENS, HeadLinearColumns, "TOKENS"),
        (memory::CHUNK, DeltaSolve, "CHUNK"),
        (memory::CHUNK, DeltaPass, "CHUNK"),
        (recording::SIDE, Mamba2Scores, "SIDE"),
        (recording::SIDE, MLstmScores, "SIDE"),
        (memory::CHUNK, Mamba2Scores, "SIDE"),
        (memory::CHUNK, Mamba2Pass, "CHUNK"),
        (memory::CHUNK, MLstmScores, "SIDE"),
        (memory::CHUNK, MLstmPass, "CHUNK"),
        (moe_down::SUM_THREADS, MoeDownSum, "THREADS"),
        (moe_route::MAX_EXPERTS, MoeRoute, "MAX_EXPERTS"),
        (moe_route::MAX_EXPERTS, MoeGroup, "MAX_EXPERTS"),
        (projection::THREADS, LinearRows, "THREADS"),
        (projection::THREADS, LinearHeadRows, "THREADS"),
        (projection::THREADS, GatedLinearRows, "THREADS"),
        (projection::THREADS, HeadRows, "THREADS"),
        (projection::THREADS, MoeUpRows, "THREADS"),
        (projection::THREADS, MoeDownRows, "THREADS"),
        (projection::MAX_GROUPS, LinearRows, "MAX_GROUPS"),
        (projection::MAX_HEADS, LinearHeadRows, "MAX_GROUPS"),
        (projection::MAX_GROUPS, Prepare, "MAX_GROUPS"),
        (sample::BLOCK, SampleLargest, "BLOCK"),
        (sample::BLOCK, SampleMasses, "BLOCK"),
        (sample::ROOM, SampleSorted, "ROOM"),
        (params::ABSENT as usize, LinearRows, "ABSENT"),
        (params::ABSENT as usize, SampleGreedy, "ABSENT"),
    ] {
        assert_eq!(ours, constant(kernel, name), "{kernel:?} {name}");
    }
    // Values that the threads have registers for.
    let room = constant(MLstmFinish, "THREADS") * constant(MLstmFinish, "VALUES");
    assert_eq!(mlstm_scan::MAX_VALUE, room);
    for kernel in [AttentionPieces, AttentionPiecesAny, AttentionPiecesPacked] {
        let room = constant(kernel, "THREADS") * constant(kernel, "HELD");
        assert_eq!(attention::MAX_HEAD, room, "{kernel:?}");
    }
    let copied = constant(Copy, "THREADS") * constant(Copy, "EACH");
    assert_eq!(bandwidth::GROUP_BYTES, 16 * copied as u64);
}
