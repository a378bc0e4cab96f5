//! The command line of adapters: how a model that is trained is adapted.

use clap::Args;
use lith_models::adapters::{Bias, LoraConfig, Modules};

use crate::error::{Error, Result};
use crate::model::Lora;

/// Low-rank adapters instead of all weights.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Adapters")]
pub struct LoraArgs {
    /// Train low-rank adapters beside linear layers, and new heads; what is saved is an adapter in PEFT's form
    #[arg(long)]
    pub lora: bool,
    /// Rank of the adapters
    #[arg(long, value_name = "R", default_value_t = 8, requires = "lora")]
    lora_r: usize,
    /// Adapters are scaled by this over the rank
    #[arg(long, value_name = "ALPHA", default_value_t = 8.0, requires = "lora")]
    lora_alpha: f64,
    /// Share of a layer's inputs that its adapter does not see in a step
    #[arg(long, value_name = "P", default_value_t = 0.0, requires = "lora")]
    lora_dropout: f64,
    /// Layers with adapters: names with commas between, a regular expression of whole paths, or all-linear
    /// [default: PEFT's for the model type]
    #[arg(long, value_name = "MODULES", requires = "lora")]
    lora_target_modules: Option<String>,
    /// Layers without, of those
    #[arg(long, value_name = "MODULES", requires = "lora")]
    lora_exclude_modules: Option<String>,
    /// Modules that are trained and saved whole [default: the head of classifiers]
    #[arg(long, value_name = "MODULES", value_delimiter = ',', requires = "lora")]
    lora_modules_to_save: Option<Vec<String>>,
    /// Biases that are trained: none, all or lora_only
    #[arg(long, value_name = "WHICH", default_value = "none", requires = "lora")]
    lora_bias: String,
    /// Scale by alpha over the root of the rank
    #[arg(long, requires = "lora")]
    lora_rslora: bool,
    /// Learn the magnitudes of the weights' rows apart from their directions (DoRA)
    #[arg(long, visible_alias = "use-dora", requires = "lora")]
    lora_dora: bool,
}

impl LoraArgs {
    /// The library's form, if there are to be adapters.
    ///
    /// # Errors
    /// When a name is unknown.
    pub fn options(&self) -> Result<Option<Lora>> {
        let bias = Bias::from_name(&self.lora_bias)
            .ok_or_else(|| Error::input(format!("--lora-bias {}: expected none, all or lora_only", self.lora_bias)))?;
        let config = LoraConfig {
            r: self.lora_r,
            lora_alpha: self.lora_alpha,
            lora_dropout: self.lora_dropout,
            target_modules: self.lora_target_modules.as_deref().map(Modules::from_text),
            exclude_modules: self.lora_exclude_modules.as_deref().map(Modules::from_text),
            modules_to_save: self.lora_modules_to_save.clone(),
            bias,
            use_rslora: self.lora_rslora,
            use_dora: self.lora_dora,
            ..LoraConfig::default()
        };
        Ok(self.lora.then_some(Lora { config, seed: 0 }))
    }
}
