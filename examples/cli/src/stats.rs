//! Statistics of an answer as JSON.

pub(crate) use kinglet::answer::AnswerStats as Stats;
use kinglet::speculate::SpeculationStats;
use serde_json::{Value, json};

/// Counts and times as JSON.
pub(crate) fn to_json(stats: &Stats) -> Value {
    let mut json = json!({
        "tokens": {
            "prompt": stats.prompt,
            "reused": stats.reused,
            "computed": stats.computed,
            "generated": stats.generated,
        },
        "timings": {
            "prefill_seconds": stats.prefill.as_secs_f64(),
            "time_to_first_token_seconds": stats.first_token.map(|time| time.as_secs_f64()),
            "decode_seconds": stats.decode.as_secs_f64(),
            "prefill_tokens_per_second": stats.prefill_rate(),
            "decode_tokens_per_second": stats.decode_rate(),
        },
    });
    if let (Some(SpeculationStats { steps, drafted, accepted }), Value::Object(fields)) =
        (stats.speculation, &mut json)
    {
        let told = json!({ "steps": steps, "drafted": drafted, "accepted": accepted });
        fields.insert("speculation".into(), told);
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn unmeasured_values_are_null() {
        let decode = Duration::from_secs(1);
        let mut stats = Stats { generated: 5, decode, ..Stats::default() };
        assert_eq!(to_json(&stats)["timings"]["decode_tokens_per_second"], 4.0);
        stats.generated = 1;
        let json = to_json(&stats);
        assert!(json["timings"]["prefill_tokens_per_second"].is_null());
        assert!(json["timings"]["decode_tokens_per_second"].is_null());
        assert!(json["timings"]["time_to_first_token_seconds"].is_null());
    }
}
