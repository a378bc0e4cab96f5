//! Parameters that follow from others: how they are stored, and their values, computed while weights are packed. What is
//! only rows of several parameters one after the other is put together as it is stored, codes included; anything else is
//! computed, every result rounded to its type: by [`matrices`], and what that does not know by the reference interpreter.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use lith_ir::interp::{Interpreter, Mode, Tensor};
use lith_ir::quant::{QuantMatrix, Storage};
use lith_ir::{DType, Graph, Op, Program, Type, Value};

use super::{WeightData, WeightError, convert, matrices};

/// The derived parameters of a program.
#[derive(Clone, Debug)]
pub struct Derived {
    program: Program,
}

impl Derived {
    /// Those of a program.
    pub fn new(program: &Program) -> Derived {
        let sources = program.derived.values().flat_map(sources);
        let params = sources.filter_map(|name| program.params.get_key_value(name));
        Derived {
            program: Program {
                name: program.name.clone(),
                params: params.map(|(name, ty)| (name.clone(), ty.clone())).collect(),
                derived: program.derived.clone(),
                ..Program::default()
            },
        }
    }

    /// The parameters that a derived one follows from; `None` for one that is not derived.
    pub fn sources(&self, name: &str) -> Option<BTreeSet<&str>> {
        self.program.derived.get(name).map(sources)
    }

    /// How a parameter is stored, derived or not: as `storage` tells of those that it follows from. Where these are
    /// floats of several types, as `f32`.
    pub fn storage(&self, name: &str, storage: &dyn Fn(&str) -> Storage) -> Storage {
        let Some(graph) = self.program.derived.get(name) else { return storage(name) };
        let found: BTreeSet<Storage> = sources(graph).into_iter().map(storage).collect();
        match found.first() {
            Some(&one) if found.len() == 1 => one,
            _ => Storage::Float(DType::F32),
        }
    }

    /// The value of a derived parameter, from those of all its [`Derived::sources`].
    ///
    /// # Errors
    /// When one is missing, or not what the program says.
    pub fn value<'w>(&self, name: &str, given: BTreeMap<&str, WeightData<'w>>) -> Result<WeightData<'w>, WeightError> {
        let wrong = |problem: String| WeightError { name: name.into(), problem };
        let graph = self.program.derived.get(name).ok_or_else(|| wrong("is not derived".into()))?;
        if let Some(missing) = sources(graph).into_iter().find(|source| !given.contains_key(source)) {
            return Err(wrong(format!("`{missing}`, which it follows from, is not there")));
        }
        if let Some(parts) = rows(graph)
            && let Some(data) = joined(&parts.iter().filter_map(|p| given.get(p)).collect::<Vec<_>>())
        {
            return Ok(data);
        }
        let mut elements: BTreeMap<&str, (&Type, Cow<'w, [u8]>)> = BTreeMap::new();
        for (source, data) in given {
            let wrong = |problem: String| WeightError { name: source.into(), problem };
            let ty = self.program.params.get(source).ok_or_else(|| wrong("is not one of the program".into()))?;
            let WeightData::Elements { dtype, bytes } = data else {
                return Err(wrong(format!("codes, which `{name}` cannot be computed from")));
            };
            let converted =
                convert(dtype, &bytes, ty.dtype).ok_or_else(|| wrong(format!("{dtype} for {}", ty.dtype)))?;
            let bytes = match converted {
                Cow::Owned(converted) => Cow::Owned(converted),
                Cow::Borrowed(_) => bytes,
            };
            elements.insert(source, (ty, bytes));
        }
        let floats = elements.iter().filter(|(_, (ty, bytes))| ty.dtype == DType::F32 && bytes.len().is_multiple_of(4));
        let floats = floats.map(|(&source, (_, bytes))| {
            (source, bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
        });
        if let Some(values) = matrices::value(graph, &floats.collect()) {
            let mut bytes = Vec::with_capacity(values.len() * size_of::<f32>());
            values.iter().for_each(|v| bytes.extend_from_slice(&v.to_le_bytes()));
            return Ok(WeightData::Elements { dtype: DType::F32, bytes: bytes.into() });
        }
        self.interpreted(name, graph, &elements)
    }

    /// The value of a derived parameter by the reference interpreter.
    fn interpreted(
        &self,
        name: &str,
        graph: &Graph,
        elements: &BTreeMap<&str, (&Type, Cow<'_, [u8]>)>,
    ) -> Result<WeightData<'static>, WeightError> {
        let wrong = |name: &str, problem: String| WeightError { name: name.into(), problem };
        let mut tensors = BTreeMap::new();
        for (&source, (ty, bytes)) in elements {
            let shape = ty.static_shape().ok_or_else(|| wrong(source, format!("{ty} has no fixed size")))?;
            let tensor = Tensor::from_bytes(ty.dtype, &shape, bytes).map_err(|e| wrong(source, e.to_string()))?;
            tensors.insert(source, tensor);
        }
        let program = Program {
            params: elements.iter().map(|(source, (ty, _))| (source.to_string(), (*ty).clone())).collect(),
            derived: BTreeMap::from([(name.to_string(), graph.clone())]),
            ..Program::new(&self.program.name)
        };
        let interpreter = Interpreter::new(&program, Mode::Rounded).map_err(|e| wrong(name, e.to_string()))?;
        let value = interpreter.derive(name, &|n| tensors.get(n).cloned()).map_err(|e| wrong(name, e.to_string()))?;
        Ok(WeightData::Elements { dtype: value.dtype(), bytes: value.to_bytes().into() })
    }
}

/// The parameters that a graph reads.
fn sources(graph: &Graph) -> BTreeSet<&str> {
    let names = graph.petgraph().node_weights().filter_map(|n| match &n.op {
        Op::Param { name, .. } => Some(name.as_str()),
        _ => None,
    });
    names.collect()
}

/// The parameters of which a derived one is the rows one after the other, if it is.
fn rows(graph: &Graph) -> Option<Vec<&str>> {
    fn collect<'g>(graph: &'g Graph, value: Value, out: &mut Vec<&'g str>) -> Option<()> {
        match &graph.get(value.node)?.op {
            Op::Param { name, .. } => out.push(name),
            Op::Concat { axis: 0 } => {
                graph.inputs(value.node).into_iter().try_for_each(|v| collect(graph, v, out))?;
            }
            _ => return None,
        }
        Some(())
    }
    let mut found = Vec::new();
    collect(graph, graph.results().first()?.1, &mut found)?;
    Some(found)
}

/// Parts one after the other; `None` when they are not stored alike.
fn joined<'w>(parts: &[&WeightData<'w>]) -> Option<WeightData<'w>> {
    match parts.first()? {
        WeightData::Elements { dtype, .. } => {
            let mut all = Vec::new();
            for part in parts {
                match part {
                    WeightData::Elements { dtype: d, bytes } if d == dtype => all.extend_from_slice(bytes),
                    _ => return None,
                }
            }
            Some(WeightData::Elements { dtype: *dtype, bytes: Cow::Owned(all) })
        }
        WeightData::Quantized(first) => {
            let mut all = first.clone();
            for part in &parts[1..] {
                let WeightData::Quantized(QuantMatrix {
                    scheme,
                    rows,
                    cols,
                    codes,
                    scales,
                    mins,
                    sub_scales,
                    sub_mins,
                }) = part
                else {
                    return None;
                };
                if (*scheme, *cols) != (all.scheme, all.cols) {
                    return None;
                }
                all.rows += rows;
                all.codes.extend_from_slice(codes);
                all.scales.extend_from_slice(scales);
                all.mins.extend_from_slice(mins);
                all.sub_scales.extend_from_slice(sub_scales);
                all.sub_mins.extend_from_slice(sub_mins);
            }
            Some(WeightData::Quantized(all))
        }
    }
}
