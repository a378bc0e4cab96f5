//! Tensors of a program in safetensors files: written one at a time, so that memory never holds them all, and read back
//! against what the program expects.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use lith_ir::DType;
use serde_json::{Map, Value, json};

use super::disk::Disk;
use super::error::CheckpointError;
use crate::tensor::Tensor;
use crate::training::program::{StepError, TensorSpec};
use crate::training::state::pretty;
use crate::weights::convert;

/// Longest header that is read, in bytes, as in the reference implementation.
const MAX_HEADER: u64 = 100_000_000;

fn name_of(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "F64",
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::Bf16 => "BF16",
        DType::I64 => "I64",
        DType::I32 => "I32",
        DType::I16 => "I16",
        DType::I8 => "I8",
        DType::U32 => "U32",
        DType::U8 => "U8",
        DType::Bool => "BOOL",
    }
}

fn bytes_of(spec: &TensorSpec) -> u64 {
    spec.elements() * spec.dtype.size() as u64
}

/// Gives the values of a tensor by its name.
pub type ReadTensor<'a> = dyn Fn(&str) -> Result<Tensor, StepError> + 'a;

/// How tensors are written.
pub(super) struct Form {
    /// Type of floats; their own otherwise.
    pub dtype: Option<DType>,
    /// The file's metadata.
    pub metadata: Value,
}

impl Form {
    /// The type that a tensor has in the file.
    fn dtype(&self, spec: &TensorSpec) -> DType {
        self.dtype.filter(|_| spec.dtype.is_float()).unwrap_or(spec.dtype)
    }

    /// Bytes of a tensor in the file.
    fn bytes(&self, spec: &TensorSpec) -> u64 {
        spec.elements() * self.dtype(spec).size() as u64
    }
}

/// Writes these tensors into one file: widest elements first, so that all are aligned, then in order of
/// names.
pub(super) fn write_file(
    disk: &dyn Disk,
    path: &Path,
    read: &ReadTensor<'_>,
    specs: &[&TensorSpec],
    form: &Form,
) -> Result<(), CheckpointError> {
    let mut specs = specs.to_vec();
    specs.sort_by(|a, b| form.dtype(b).size().cmp(&form.dtype(a).size()).then_with(|| a.name.cmp(&b.name)));
    let mut header = Map::from_iter([("__metadata__".to_string(), form.metadata.clone())]);
    let mut end = 0u64;
    for spec in &specs {
        let start = end;
        end += form.bytes(spec);
        let entry = json!({"dtype": name_of(form.dtype(spec)), "shape": spec.shape, "data_offsets": [start, end]});
        header.insert(spec.name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');

    let failed = |error: io::Error| CheckpointError::write(path, error);
    let mut file = disk.create(path).map_err(failed)?;
    file.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| file.write_all(&header)).map_err(failed)?;
    for spec in specs {
        let tensor = read(&spec.name)?;
        if (tensor.dtype(), tensor.shape()) != (spec.dtype, spec.shape.as_slice()) {
            let problem = format!("tensor {} is {:?} {:?}", spec.name, tensor.dtype(), tensor.shape());
            return Err(CheckpointError::unusable(path, format!("{problem}, not {:?} {:?}", spec.dtype, spec.shape)));
        }
        let bytes = convert(spec.dtype, tensor.bytes(), form.dtype(spec));
        let bytes = bytes.ok_or_else(|| CheckpointError::unusable(path, format!("tensor {}: no float", spec.name)))?;
        file.write_all(&bytes).map_err(failed)?;
    }
    file.finish().map_err(failed)
}

/// Writes weights as `STEM.safetensors`, or as shards of at most `max_bytes` with an index (a tensor that is larger has a
/// shard of its own). Gives the names of the files. (EX-01)
pub(super) fn write_sharded(
    disk: &dyn Disk,
    folder: &Path,
    stem: &str,
    read: &ReadTensor<'_>,
    specs: &[&TensorSpec],
    max_bytes: u64,
    form: &Form,
) -> Result<Vec<String>, CheckpointError> {
    let mut shards: Vec<Vec<&TensorSpec>> = vec![Vec::new()];
    let mut filled = 0u64;
    for &spec in specs {
        let bytes = form.bytes(spec);
        if filled > 0 && filled.saturating_add(bytes) > max_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(spec);
        }
    }
    let name = |at: usize| match shards.len() {
        1 => format!("{stem}.safetensors"),
        count => format!("{stem}-{:05}-of-{count:05}.safetensors", at + 1),
    };
    let mut files = Vec::new();
    let mut places = BTreeMap::new();
    for (at, shard) in shards.iter().enumerate() {
        write_file(disk, &folder.join(name(at)), read, shard, form)?;
        places.extend(shard.iter().map(|spec| (spec.name.as_str(), name(at))));
        files.push(name(at));
    }
    if files.len() > 1 {
        let elements: u64 = specs.iter().map(|spec| spec.elements()).sum();
        let bytes: u64 = specs.iter().map(|spec| form.bytes(spec)).sum();
        let index = json!({
            "metadata": {"total_parameters": elements, "total_size": bytes},
            "weight_map": places,
        });
        let file = format!("{stem}.safetensors.index.json");
        super::save::write_text(disk, &folder.join(&file), &pretty(&index, 2))?;
        files.push(file);
    }
    Ok(files)
}

/// A safetensors file whose header is read.
pub(super) struct WeightFile {
    path: PathBuf,
    file: File,
    header: Map<String, Value>,
    start: u64,
    size: u64,
}

impl WeightFile {
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let broken = |problem: String| CheckpointError::unusable(path, problem);
        let read = || -> io::Result<(File, u64, u64, Vec<u8>)> {
            let mut file = File::open(path)?;
            let size = file.metadata()?.len();
            let mut length = [0; 8];
            file.read_exact(&mut length)?;
            let length = u64::from_le_bytes(length);
            if length > MAX_HEADER || length > size - 8 {
                return Err(io::Error::other(format!("a header of {length} bytes in a file of {size}")));
            }
            let mut header = Vec::new();
            file.by_ref().take(length).read_to_end(&mut header)?;
            Ok((file, size, 8 + length, header))
        };
        let (file, size, start, header) = read().map_err(|error| broken(error.to_string()))?;
        let header = serde_json::from_slice(&header).map_err(|error| broken(format!("broken header: {error}")))?;
        Ok(WeightFile { path: path.into(), file, header, start, size })
    }

    /// An entry of the metadata.
    pub(super) fn metadata(&self, key: &str) -> Option<&str> {
        self.header.get("__metadata__")?.get(key)?.as_str()
    }

    /// Names of the tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.header.keys().map(String::as_str).filter(|name| *name != "__metadata__")
    }

    /// Where the tensor's bytes are, when the file holds it as the program expects it.
    pub(super) fn check(&self, spec: &TensorSpec) -> Result<u64, CheckpointError> {
        let wrong = |problem: String| CheckpointError::unusable(&self.path, format!("tensor {}: {problem}", spec.name));
        let entry = self.header.get(&spec.name).ok_or_else(|| wrong("it is not in the file".into()))?;
        let (dtype, shape) = (&entry["dtype"], &entry["shape"]);
        if *dtype != name_of(spec.dtype) || *shape != json!(spec.shape) {
            let expected = format!("{} {:?}", name_of(spec.dtype), spec.shape);
            return Err(wrong(format!("expected {expected}, found {} {shape}", dtype.as_str().unwrap_or("nothing"))));
        }
        let offset = |at: usize| entry["data_offsets"][at].as_u64();
        let place = offset(0).zip(offset(1)).and_then(|(from, to)| {
            let length = to.checked_sub(from)?;
            Some((self.start.checked_add(from)?, self.start.checked_add(to)?, length))
        });
        match place {
            Some((from, to, length)) if length == bytes_of(spec) && to <= self.size => Ok(from),
            Some((_, to, _)) if to > self.size => {
                Err(wrong(format!("the file is cut off: it ends at byte {}, the tensor at {to}", self.size)))
            }
            _ => Err(wrong(format!("its offsets {} do not fit its shape", entry["data_offsets"]))),
        }
    }

    /// The tensor.
    pub(super) fn read(&mut self, spec: &TensorSpec) -> Result<Tensor, CheckpointError> {
        let at = self.check(spec)?;
        let mut tensor = Tensor::zeros(spec.dtype, spec.shape.clone()).ok_or_else(|| {
            CheckpointError::unusable(&self.path, format!("tensor {}: {:?} is too large", spec.name, spec.shape))
        })?;
        let read = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.read_exact(tensor.bytes_mut()));
        read.map_err(|error| CheckpointError::unusable(&self.path, format!("tensor {}: {error}", spec.name)))?;
        Ok(tensor)
    }
}
