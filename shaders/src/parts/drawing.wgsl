// The weights of tokens, and the token that a random number selects.

struct Draw {
    /// Divisor of the distances from the largest logit, before the filters.
    cut_temperature: f32,
    /// A further divisor, before sampling.
    draw_temperature: f32,
    top_p: f32,
    min_p: f32,
    /// Random number in 0..1.
    number: f32,
    /// 0 for none.
    top_k: u32,
}

/// How the next token is chosen.
@group(0) @binding(_) var<uniform> draw: Draw;

/// e^distance for a distance up to 0; zero if the result is not a normal number.
fn weight(distance: f32) -> f32 {
    return select(exp(max(distance, -88.0)), 0.0, distance < -87.3);
}

/// Weights of the four tokens from `first` on; zero for those that `min_p` excludes.
fn weights_at(first: u32, most: f32) -> vec4<f32> {
    var weights = vec4(0.0);
    for (var i = 0u; i < 4u; i += 1u) {
        if first + i < params.vocab && key_of(logits[first + i]) > EXCLUDED {
            let distance = (logits[first + i] - most) / draw.cut_temperature;
            if weight(distance) >= draw.min_p {
                weights[i] = weight(distance / draw.draw_temperature);
            }
        }
    }
    return weights;
}

fn sum4(a: vec4<f32>) -> f32 {
    return (a.x + a.y) + (a.z + a.w);
}

/// The one of four that `place` falls on, if everything before weighs `start`: if none, the last with any weight.
fn pick(weights: vec4<f32>, place: f32, start: f32) -> u32 {
    var sum = start;
    var last = 0u;
    for (var i = 0u; i < 4u; i += 1u) {
        if weights[i] > 0.0 {
            sum += weights[i];
            last = i;
            if sum > place {
                break;
            }
        }
    }
    return last;
}
