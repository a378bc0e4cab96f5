//! Which files hold a model's weights (CKP-01 to CKP-07).

use std::collections::BTreeSet;

use super::{Checkpoint, CheckpointError, index};
use crate::source::Source;

/// Which container to read (CKP-03).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// safetensors where there are any, else PyTorch's.
    #[default]
    Any,
    /// safetensors only.
    Safetensors,
    /// PyTorch pickles only.
    Pickle,
}

/// How to look for weights.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Which container to read.
    pub format: Format,
    /// The variant, `fp16` for instance (CKP-02).
    pub variant: Option<String>,
    /// A file named by the config's `transformers_weights`; it comes before all others.
    pub weights: Option<String>,
}

/// Endings of weight files of other frameworks, for the message when nothing else is there.
const OTHER_FORMATS: &[&str] = &[".h5", ".msgpack", ".pth", ".pt", ".gguf", ".onnx", ".ckpt", ".ot"];

/// The candidates in order: single safetensors, its index, single pickle, its index.
fn candidates(format: Format, variant: Option<&str>) -> Vec<String> {
    let dotted = variant.map(|variant| format!(".{variant}")).unwrap_or_default();
    let mut names = Vec::new();
    for (stem, extension, container) in
        [("model", "safetensors", Format::Safetensors), ("pytorch_model", "bin", Format::Pickle)]
    {
        if format == Format::Any || format == container {
            names.push(format!("{stem}{dotted}.{extension}"));
            names.push(format!("{stem}.{extension}.index{dotted}.json"));
        }
    }
    names
}

pub(super) fn open(source: &Source, options: &OpenOptions) -> Result<Checkpoint, CheckpointError> {
    if let Some(path) = source.weights_file() {
        return Checkpoint::open_file(path);
    }
    let mut looked_for = candidates(options.format, options.variant.as_deref());
    if let Some(name) = &options.weights {
        // Must be safetensors inside the directory; `source` refuses paths that leave it.
        if !name.ends_with(".safetensors") && !name.ends_with(".safetensors.index.json") {
            let reason = format!("`transformers_weights` names `{name}`, which is no safetensors file");
            return Err(CheckpointError::File { file: source.folder(), reason });
        }
        looked_for.insert(0, name.clone());
    }
    for name in &looked_for {
        if source.exists(name)? {
            return open_named(source, name);
        }
    }

    if let Some(variant) = &options.variant {
        for present in candidates(options.format, None) {
            if source.exists(&present)? {
                return Err(CheckpointError::NoVariant { place: source.describe(), variant: variant.clone(), present });
            }
        }
    }
    let others: Vec<String> =
        source.names().into_iter().filter(|name| OTHER_FORMATS.iter().any(|ending| name.ends_with(ending))).collect();
    let mut hint = match others.as_slice() {
        [] => String::new(),
        names => format!("; other formats, which are not read here, are there: {}", names.join(", ")),
    };
    if let Some(why) = source.offline() {
        hint += &format!("; only the cache was searched: {why}");
    }
    Err(CheckpointError::NotFound { place: source.describe(), looked_for: looked_for.join(", "), hint })
}

fn open_named(source: &Source, name: &str) -> Result<Checkpoint, CheckpointError> {
    let path = source.required(name)?;
    let mut checkpoint = Checkpoint::empty(source.describe());
    if !name.ends_with(".json") {
        checkpoint.add_file(&path)?;
        return Ok(checkpoint);
    }

    let text = crate::source::read_text(&path, index::MAX_INDEX_BYTES)?;
    let weight_map = index::parse_index(&text, &path)?;
    // Shards are beside their index.
    let beside = name.rsplit_once('/').map(|(folder, _)| format!("{folder}/")).unwrap_or_default();
    let shards: BTreeSet<&str> = weight_map.iter().map(|(_, shard)| shard.as_str()).collect();
    let mut missing = Vec::new();
    for shard in &shards {
        if !source.exists(&format!("{beside}{shard}"))? {
            missing.push(shard.to_string());
        }
    }
    if !missing.is_empty() {
        return Err(CheckpointError::MissingShards { index: path, shards: missing });
    }
    for shard in &shards {
        checkpoint.add_file(&source.required(&format!("{beside}{shard}"))?)?;
    }
    for (tensor, shard) in &weight_map {
        let found = checkpoint.tensor(tensor).map(|stored| stored.file().to_path_buf());
        match found {
            Some(file) if file.ends_with(shard) => {}
            found => {
                let place = found.map_or("absent".into(), |file| format!("in {}", file.display()));
                let reason = format!("the index says it is in {shard}, but it is {place}");
                return Err(CheckpointError::tensor(&path, tensor, reason));
            }
        }
    }
    Ok(checkpoint)
}
