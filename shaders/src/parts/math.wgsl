// Scalar functions in forms that are exact at both ends of their range: a device's own `tanh` may overflow, and `log(1
// + e)` loses a small `e`.

/// 1 / (1 + e^-x).
fn sigmoid(x: f32) -> f32 {
    let e = exp(-abs(x));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}

fn silu(x: f32) -> f32 {
    return x * sigmoid(x);
}

fn four_sigmoid(x: vec4<f32>) -> vec4<f32> {
    let e = exp(-abs(x));
    return select(e, vec4(1.0), x >= vec4(0.0)) / (1.0 + e);
}

fn four_silu(x: vec4<f32>) -> vec4<f32> {
    return x * four_sigmoid(x);
}

/// ln(1 + e) for e in 0 ..= 1, as 2 artanh(e / (2 + e)): no term cancels.
fn log_one_plus(e: f32) -> f32 {
    let s = e / (2.0 + e);
    let q = s * s;
    var sum = 1.0 / 15.0;
    sum = sum * q + 1.0 / 13.0;
    sum = sum * q + 1.0 / 11.0;
    sum = sum * q + 1.0 / 9.0;
    sum = sum * q + 1.0 / 7.0;
    sum = sum * q + 0.2;
    sum = sum * q + 1.0 / 3.0;
    sum = sum * q + 1.0;
    return 2.0 * s * sum;
}

/// ln(1 + e^x).
fn softplus(x: f32) -> f32 {
    return max(x, 0.0) + log_one_plus(exp(-abs(x)));
}

fn log_sigmoid(x: f32) -> f32 {
    return -softplus(-x);
}

fn stable_tanh(x: f32) -> f32 {
    let a = abs(x);
    if a < 0.25 {
        let q = x * x;
        return x * (1.0 + q * (-1.0 / 3.0 + q * (2.0 / 15.0 + q * (-17.0 / 315.0 + q * (62.0 / 2835.0)))));
    }
    let e = exp(-2.0 * a);
    return sign(x) * (1.0 - e) / (1.0 + e);
}

/// cap * tanh(x / cap); x itself if cap is 0.
fn soft_cap(x: f32, cap: f32) -> f32 {
    if cap == 0.0 {
        return x;
    }
    return cap * stable_tanh(x / cap);
}

/// erfc(a) for a >= 0: a Chebyshev fit of ln(erfc(a) e^(a^2) / t), t = 2 / (2 + a), whose relative error is 1.2e-7 everywhere
/// (Press et al., "Numerical Recipes", second edition, section 6.2).
fn erfc(a: f32) -> f32 {
    let t = 2.0 / (2.0 + a);
    var p = 0.17087277;
    p = p * t - 0.82215223;
    p = p * t + 1.48851587;
    p = p * t - 1.13520398;
    p = p * t + 0.27886807;
    p = p * t - 0.18628806;
    p = p * t + 0.09678418;
    p = p * t + 0.37409196;
    p = p * t + 1.00002368;
    p = p * t - 1.26551223;
    return t * exp(p - a * a);
}

const ACTIVATION_SILU: u32 = 0u;
const ACTIVATION_GELU: u32 = 1u;
const ACTIVATION_GELU_TANH: u32 = 2u;
const ACTIVATION_RELU: u32 = 3u;

fn activation(kind: u32, x: f32) -> f32 {
    switch kind {
        case ACTIVATION_GELU: {
            let tail = 0.5 * erfc(abs(x) * 0.7071067811865476);
            return x * select(tail, 1.0 - tail, x >= 0.0);
        }
        case ACTIVATION_GELU_TANH: {
            // 0.5 (1 + tanh u) = sigmoid(2 u).
            return x * sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x));
        }
        case ACTIVATION_RELU: {
            return max(x, 0.0);
        }
        default: {
            return silu(x);
        }
    }
}
