//! [`SamplingOptions`]: how a token is chosen.

use serde::{Deserialize, Serialize};

use super::SamplingError;
use crate::backend::{Draw, TokenChoice};
use crate::text::GenerationConfig;

/// When the temperature is applied, which also fixes the order of the stages that reduce the
/// distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageOrder {
    /// As in `transformers` (`generation/utils.py`, `_get_logits_processor`): temperature, top-k,
    /// top-p, min-p, typical, then XTC. The values in a model's `generation_config.json` are meant
    /// for this order.
    #[default]
    TemperatureFirst,
    /// As in llama.cpp (`common/common.h`, the default chain of samplers): top-k, typical, top-p,
    /// min-p, XTC, then temperature. A high temperature then does not admit more tokens.
    TemperatureLast,
}

/// "Don't repeat yourself" (P. E. Weidmann, text-generation-webui pull request 5677): penalizes a
/// token that would continue a repetition of the text's end by `multiplier * base ^ (length of the
/// repetition - allowed_length)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DryOptions {
    /// Strength; 0 turns DRY off. Typical: 0.8.
    pub multiplier: f32,
    /// Growth with each repeated token, at least 1. Typical: 1.75.
    pub base: f32,
    /// Repetitions shorter than this have no penalty. Typical: 2.
    pub allowed_length: u32,
    /// Number of last tokens to search; `None` searches all.
    pub last_n: Option<usize>,
    /// Token sequences that a repetition doesn't extend across (a new line, the start of a turn). A
    /// breaker of one token is never penalized itself.
    pub sequence_breakers: Vec<Vec<u32>>,
}

impl Default for DryOptions {
    /// Off; the other fields have their typical values.
    fn default() -> Self {
        Self {
            multiplier: 0.0,
            base: 1.75,
            allowed_length: 2,
            last_n: None,
            sequence_breakers: Vec::new(),
        }
    }
}

/// "Exclude top choices" (P. E. Weidmann, text-generation-webui pull request 6335): of all tokens
/// at least as probable as the threshold, excludes all but the least probable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct XtcOptions {
    /// Probability of applying it, from 0 to 1; 0 turns XTC off. Typical: 0.5.
    pub probability: f32,
    /// The threshold, from 0 to 1. Above 0.5 at most one token reaches it. Typical: 0.1.
    pub threshold: f32,
}

impl Default for XtcOptions {
    /// Off, with the typical threshold.
    fn default() -> Self {
        Self { probability: 0.0, threshold: 0.1 }
    }
}

/// How a token is chosen from the logits. All fields may change from token to token.
///
/// The stages run in this order; [`StageOrder`] fixes the order within the fourth:
/// 1. logit bias,
/// 2. repetition, presence and frequency penalties,
/// 3. DRY,
/// 4. temperature, top-k, top-p, min-p, typical, XTC,
/// 5. the draw.
///
/// The defaults change nothing: tokens are drawn from the model's own distribution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingOptions {
    /// Divides the logits. 0 means greedy: the most probable token after bias and penalties, with
    /// ties going to the lowest id. Default 1.
    pub temperature: f32,
    /// Keeps only the `top_k` most probable tokens, with ties going to lower ids. 0, the default,
    /// keeps all.
    pub top_k: u32,
    /// Keeps only the most probable tokens that together reach this probability (A. Holtzman et
    /// al., "The Curious Case of Neural Text Degeneration", 2020). 1, the default, keeps all.
    pub top_p: f32,
    /// Keeps only tokens with at least this share of the largest probability (N. N. Minh et al.,
    /// "Turning Up the Heat: Min-p Sampling", 2024). 0, the default, keeps all.
    pub min_p: f32,
    /// Keeps only the tokens whose information is closest to the entropy and that together reach
    /// this probability (C. Meister et al., "Locally Typical Sampling", 2023). 1, the default,
    /// keeps all.
    pub typical_p: f32,
    /// Divides the positive logits of tokens in the history, and multiplies the negative ones (N.
    /// S. Keskar et al., "CTRL", 2019, section 4.1). 1, the default, is no penalty.
    pub repetition_penalty: f32,
    /// Is subtracted from the logits of tokens in the history. Default 0.
    pub presence_penalty: f32,
    /// Is subtracted from the logits of tokens in the history, once per occurrence. Default 0.
    pub frequency_penalty: f32,
    /// Number of last tokens that these three penalties consider; `None`, the default, considers
    /// all.
    pub penalty_last_n: Option<usize>,
    /// Penalty on repeated sequences. Off by default.
    pub dry: DryOptions,
    /// Exclusion of the most probable tokens. Off by default.
    pub xtc: XtcOptions,
    /// Added to the logits of single tokens; negative infinity rules a token out.
    pub logit_bias: Vec<(u32, f32)>,
    /// The order of the stages.
    pub order: StageOrder,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_last_n: None,
            dry: DryOptions::default(),
            xtc: XtcOptions::default(),
            logit_bias: Vec::new(),
            order: StageOrder::default(),
        }
    }
}

impl SamplingOptions {
    /// Always the most probable token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// The defaults that the model's authors set, interpreted as in `transformers`: greedy unless
    /// `do_sample` is true; with `do_sample`, `temperature` defaults to 1 and `top_k` to 50.
    ///
    /// # Errors
    /// Those of [`Self::validate`].
    pub fn from_generation_config(config: &GenerationConfig) -> Result<Self, SamplingError> {
        let neutral = Self::default();
        let repetition_penalty = config.repetition_penalty.unwrap_or(neutral.repetition_penalty);
        let options = if config.do_sample == Some(true) {
            Self {
                temperature: config.temperature.unwrap_or(neutral.temperature),
                top_k: config.top_k.unwrap_or(50),
                top_p: config.top_p.unwrap_or(neutral.top_p),
                min_p: config.min_p.unwrap_or(neutral.min_p),
                typical_p: config.typical_p.unwrap_or(neutral.typical_p),
                repetition_penalty,
                ..neutral
            }
        } else {
            Self { repetition_penalty, ..Self::greedy() }
        };
        options.validate()?;
        Ok(options)
    }

    /// Whether any stage can rule out tokens.
    pub(super) fn cuts(&self) -> bool {
        self.top_k > 0
            || self.top_p < 1.0
            || self.min_p > 0.0
            || self.typical_p < 1.0
            || self.xtc.probability > 0.0
    }

    /// The part of these options that a device can apply by itself, with its random number still to
    /// be set. `None` if a stage needs the host: logit biases, penalties, DRY, typical-p, XTC.
    pub fn choice(&self, vocab: usize) -> Option<TokenChoice> {
        let plain = self.logit_bias.is_empty()
            && !self.has_penalties()
            && self.dry.multiplier == 0.0
            && (self.temperature == 0.0 || self.typical_p >= 1.0 && self.xtc.probability == 0.0);
        if !plain {
            return None;
        }
        if self.temperature == 0.0 {
            return Some(TokenChoice::Greedy);
        }
        let (cut_temperature, draw_temperature) = match self.order {
            StageOrder::TemperatureFirst => (self.temperature, 1.0),
            StageOrder::TemperatureLast => (1.0, self.temperature),
        };
        let all = usize::try_from(self.top_k).is_ok_and(|top_k| top_k >= vocab);
        Some(TokenChoice::Drawn(Draw {
            cut_temperature,
            draw_temperature,
            top_k: if all { 0 } else { self.top_k },
            top_p: self.top_p,
            min_p: self.min_p,
            number: 0.0,
        }))
    }

    /// Checks that every option is in range.
    ///
    /// # Errors
    /// [`SamplingError::Option`] for the first that is not.
    pub fn validate(&self) -> Result<(), SamplingError> {
        const FINITE: &str = "a finite number";
        const SHARE: &str = "from 0 to 1";
        const MASS: &str = "above 0, up to 1";
        let not_negative = |value: f32| value >= 0.0 && value.is_finite();
        let share = |value: f32| (0.0..=1.0).contains(&value);
        let mass = |value: f32| value > 0.0 && value <= 1.0;
        let checks = [
            ("temperature", self.temperature, not_negative(self.temperature), "0 or above"),
            ("top_p", self.top_p, mass(self.top_p), MASS),
            ("min_p", self.min_p, share(self.min_p), SHARE),
            ("typical_p", self.typical_p, mass(self.typical_p), MASS),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite(),
                "above 0",
            ),
            ("presence_penalty", self.presence_penalty, self.presence_penalty.is_finite(), FINITE),
            (
                "frequency_penalty",
                self.frequency_penalty,
                self.frequency_penalty.is_finite(),
                FINITE,
            ),
            (
                "dry.multiplier",
                self.dry.multiplier,
                not_negative(self.dry.multiplier),
                "0 or above",
            ),
            (
                "dry.base",
                self.dry.base,
                self.dry.base >= 1.0 && self.dry.base.is_finite(),
                "1 or above",
            ),
            ("xtc.probability", self.xtc.probability, share(self.xtc.probability), SHARE),
            ("xtc.threshold", self.xtc.threshold, share(self.xtc.threshold), SHARE),
        ];
        for (name, value, valid, range) in checks {
            if !valid {
                return Err(SamplingError::Option { name, value: value.to_string(), range });
            }
        }
        for (id, bias) in &self.logit_bias {
            if bias.is_nan() || *bias == f32::INFINITY {
                return Err(SamplingError::Option {
                    name: "logit_bias",
                    value: format!("{bias} for token {id}"),
                    range: "a finite number or negative infinity",
                });
            }
        }
        if self.dry.sequence_breakers.iter().any(Vec::is_empty) {
            return Err(SamplingError::Option {
                name: "dry.sequence_breakers",
                value: "an empty sequence".into(),
                range: "sequences of at least one token",
            });
        }
        Ok(())
    }
}
