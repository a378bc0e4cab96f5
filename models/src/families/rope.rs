//! Rotary positions by configuration: `rope_parameters`, or `rope_theta` and `rope_scaling` as files had them before
//! (ROPE-01 to ROPE-10, ROPE-13).

use std::f64::consts::PI;

use lith_frontend::nn::{Frequencies, Rope};
use serde_json::{Map, Value};

use super::{FamilyError, Model};
use crate::config::{Config, ConfigError};

/// What `rope_parameters` of one kind of layer say, with what else the configuration tells of positions.
pub(super) struct Settings<'a> {
    m: &'a Model<'a>,
    /// The field the parameters stand in, for messages.
    place: String,
    fields: Map<String, Value>,
    theta: f64,
    /// Features of a head that are turned.
    dim: usize,
    head: usize,
    reach: usize,
}

/// Most tokens of a sequence: `max_position_embeddings`, or with dynamic frequencies, which are for sequences beyond it,
/// `factor` times as many.
pub(super) fn max_length(config: &Config) -> Result<usize, ConfigError> {
    let reach = config.size("max_position_embeddings")?;
    let rope = [config.value("rope_scaling"), config.value("rope_parameters")];
    let dynamic = |rope: &&Value| ["rope_type", "type"].iter().any(|key| rope[*key] == "dynamic");
    let factor = rope.iter().find(dynamic).and_then(|rope| rope["factor"].as_f64());
    // Saturates; what is no sensible factor is refused when the positions are made.
    Ok((reach as f64 * factor.unwrap_or(1.0).clamp(1.0, 1e6)) as usize)
}

/// The rotary positions of every layer.
pub(super) fn rope(m: &Model<'_>, head: usize) -> Result<Rope, FamilyError> {
    Settings::read(m, None, "rope_theta", head)?.rope()
}

/// The rotary positions of layers of one of `layer_types`, whose base older files have in the field `theta`. What those
/// have in `rope_scaling` is for layers with full attention.
pub(super) fn rope_of_kind(m: &Model<'_>, kind: &str, theta: &str, head: usize) -> Result<Rope, FamilyError> {
    Settings::read(m, Some(kind), theta, head)?.rope()
}

impl<'a> Settings<'a> {
    fn read(m: &'a Model<'a>, kind: Option<&str>, theta: &str, head: usize) -> Result<Self, FamilyError> {
        // The older name counts where a file has both, as in Transformers.
        let object = |name: &str| match m.config.value(name) {
            Value::Object(map) if !map.is_empty() => Some((name.to_string(), map)),
            _ => None,
        };
        let (mut place, mut fields) = object("rope_scaling")
            .or_else(|| object("rope_parameters"))
            .unwrap_or(("rope_parameters".into(), Map::new()));
        if let Some(kind) = kind {
            if let Some(nested) = fields.get(kind) {
                (place, fields) = (format!("{place}.{kind}"), nested.as_object().cloned().unwrap_or_default());
            } else if kind != "full_attention" {
                fields = Map::new();
            }
        }
        let reach = m.config.positive("max_position_embeddings")?;
        let mut settings = Settings { m, place, fields, theta: 0.0, dim: 0, head, reach };
        settings.theta = match settings.optional("rope_theta")? {
            Some(theta) => theta,
            None => m.config.float(theta)?,
        };
        let share = match settings.optional("partial_rotary_factor")? {
            Some(share) => share,
            None => m.config.optional_float("partial_rotary_factor")?.unwrap_or(1.0),
        };
        if !(settings.theta.is_finite() && settings.theta > 1.0) {
            return Err(settings.bad("rope_theta", "number above 1", settings.theta));
        }
        if !(0.0..=1.0).contains(&share) {
            return Err(settings.bad("partial_rotary_factor", "number from 0 to 1", share));
        }
        settings.dim = match settings.kind()?.as_str() {
            "proportional" => 2 * ((share * head as f64 / 2.0) as usize),
            _ => (head as f64 * share) as usize,
        };
        if !settings.dim.is_multiple_of(2) {
            return Err(settings.bad("partial_rotary_factor", "an even number of turned features", settings.dim));
        }
        Ok(settings)
    }

    fn kind(&self) -> Result<String, FamilyError> {
        let named =
            |key: &str| self.fields.get(key).filter(|value| !value.is_null()).map(|value| (key.to_string(), value));
        match named("rope_type").or_else(|| named("type")) {
            None => Ok("default".into()),
            Some((_, Value::String(kind))) => Ok(kind.clone()),
            Some((key, other)) => Err(self.bad(&key, "string", other)),
        }
    }

    fn bad(&self, field: &str, expected: &str, found: impl ToString) -> FamilyError {
        self.m.bad_field(&format!("{}.{field}", self.place), expected, found)
    }

    fn optional(&self, field: &str) -> Result<Option<f64>, FamilyError> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.bad(field, "number", value)),
            },
        }
    }

    /// A number that must be there and above zero.
    fn positive(&self, field: &str) -> Result<f64, FamilyError> {
        match self.optional(field)? {
            Some(number) if number > 0.0 && number.is_finite() => Ok(number),
            Some(number) => Err(self.bad(field, "positive number", number)),
            None => Err(self.bad(field, "number", "nothing")),
        }
    }

    /// `factor`, where it may be absent: then how much longer sequences are than those of the training.
    fn factor_or_ratio(&self, original: f64) -> Result<f64, FamilyError> {
        if self.optional("factor")?.is_some() { self.positive("factor") } else { Ok(self.reach as f64 / original) }
    }

    /// Most positions of the training.
    fn original(&self) -> Result<f64, FamilyError> {
        let name = "original_max_position_embeddings";
        if let Some(size) = self.m.config.optional_size(name)? {
            return if size > 0 { Ok(size as f64) } else { Err(self.m.bad_field(name, "positive integer", size)) };
        }
        if self.optional(name)?.is_some() { self.positive(name) } else { Ok(self.reach as f64) }
    }

    /// A positive number for each pair.
    fn for_each_pair(&self, field: &str) -> Result<Vec<f64>, FamilyError> {
        let expected = format!("list of {} positive numbers", self.dim / 2);
        let Some(Value::Array(items)) = self.fields.get(field) else {
            return Err(self.bad(field, &expected, self.fields.get(field).map_or("nothing".into(), Value::to_string)));
        };
        let numbers: Option<Vec<f64>> = items.iter().map(Value::as_f64).collect();
        let fits = |numbers: &Vec<f64>| numbers.len() == self.dim / 2 && numbers.iter().all(|n| *n > 0.0);
        numbers.filter(fits).ok_or_else(|| self.bad(field, &expected, format!("{} items", items.len())))
    }

    /// `theta^(-2i / dim)` for each pair.
    fn plain(&self, dim: usize) -> Vec<f64> {
        (0..self.dim / 2).map(|i| self.theta.powf(-2.0 * i as f64 / dim as f64)).collect()
    }

    fn rope(&self) -> Result<Rope, FamilyError> {
        let plain = self.plain(self.dim);
        let mut scale = 1.0;
        let frequencies = match self.kind()?.as_str() {
            // Of text alone the three positions of mrope are one. ROPE-11
            "default" | "mrope" => Frequencies::Fixed(plain),
            "linear" => {
                let factor = self.positive("factor")?;
                Frequencies::Fixed(plain.into_iter().map(|f| f / factor).collect())
            }
            "dynamic" => Frequencies::Dynamic { limit: self.reach, factor: self.positive("factor")?, plain },
            "llama3" => Frequencies::Fixed(self.llama3(plain)?),
            "yarn" if self.m.config.model_type() != "phi3" => {
                scale = self.yarn_scale()?;
                Frequencies::Fixed(self.yarn(plain)?)
            }
            "longrope" | "su" | "yarn" => {
                let original = self.original()?;
                let factor = self.factor_or_ratio(original)?;
                scale = match self.optional("attention_factor")? {
                    Some(given) => given,
                    None if factor <= 1.0 => 1.0,
                    None => (1.0 + factor.ln() / original.ln()).sqrt(),
                };
                let over = |field: &str| -> Result<Vec<f64>, FamilyError> {
                    Ok(plain.iter().zip(self.for_each_pair(field)?).map(|(f, by)| f / by).collect())
                };
                Frequencies::ByLength {
                    limit: original as usize,
                    short: over("short_factor")?,
                    long: over("long_factor")?,
                }
            }
            "proportional" => {
                let factor = if self.optional("factor")?.is_some() { self.positive("factor")? } else { 1.0 };
                // Pairs span the whole head; those beyond the share stand still.
                let still = (self.head / 2).saturating_sub(self.dim / 2);
                let turned = self.plain(self.head).into_iter().map(|f| f / factor);
                Frequencies::Fixed(turned.chain(std::iter::repeat_n(0.0, still)).collect())
            }
            other => {
                let known = "default, linear, dynamic, yarn, longrope, llama3 or proportional";
                return Err(self.bad("rope_type", known, other));
            }
        };
        Ok(Rope { frequencies, scale, interleaved: false })
    }

    /// Llama 3.1: long waves are stretched by `factor`, short ones stay, those between are blended.
    fn llama3(&self, plain: Vec<f64>) -> Result<Vec<f64>, FamilyError> {
        let [factor, low, high] =
            [self.positive("factor")?, self.positive("low_freq_factor")?, self.positive("high_freq_factor")?];
        let original = self.original()?;
        let stretched = |f: f64| {
            let wave = 2.0 * PI / f;
            if wave > original / low {
                f / factor
            } else if wave < original / high {
                f
            } else {
                let blend = (original / wave - low) / (high - low);
                (1.0 - blend) * f / factor + blend * f
            }
        };
        Ok(plain.into_iter().map(stretched).collect())
    }

    /// YaRN (Peng et al. 2023, arXiv 2309.00071), section 3.2: pairs that turn often in the training's length stay, pairs
    /// that turn seldom are stretched, a ramp between.
    fn yarn(&self, plain: Vec<f64>) -> Result<Vec<f64>, FamilyError> {
        let original = self.original()?;
        let factor = self.factor_or_ratio(original)?;
        let rotations = |field: &str, default: f64| -> Result<f64, FamilyError> {
            Ok(self.optional(field)?.filter(|beta| *beta != 0.0).unwrap_or(default))
        };
        let (fast, slow) = (rotations("beta_fast", 32.0)?, rotations("beta_slow", 1.0)?);
        let dim = self.dim as f64;
        let pair_of = |turns: f64| dim * (original / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
        let (mut low, mut high) = (pair_of(fast), pair_of(slow));
        let truncate = match self.fields.get("truncate") {
            None => true,
            Some(Value::Bool(truncate)) => *truncate,
            Some(other) => return Err(self.bad("truncate", "boolean", other)),
        };
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        let blended = |(i, f): (usize, f64)| {
            let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            f / factor * ramp + f * (1.0 - ramp)
        };
        Ok(plain.into_iter().enumerate().map(blended).collect())
    }

    /// By what YaRN scales sines and cosines.
    fn yarn_scale(&self) -> Result<f64, FamilyError> {
        if let Some(given) = self.optional("attention_factor")? {
            return Ok(given);
        }
        let factor = self.factor_or_ratio(self.original()?)?;
        let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
        let given = |field: &str| Ok::<_, FamilyError>(self.optional(field)?.filter(|m| *m != 0.0));
        Ok(match (given("mscale")?, given("mscale_all_dim")?) {
            (Some(m), Some(all)) => scale(m) / scale(all),
            _ => scale(1.0),
        })
    }
}
