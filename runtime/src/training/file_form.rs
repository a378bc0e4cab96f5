//! How files hold weights that a program has otherwise: by another name, transposed, or several as rows of one tensor
//! (WLD-04, WLD-07). A program is trained in its own form; saved, resumed and loaded it is in that of its files, so that
//! whoever reads checkpoints of the family reads these. States of optimizers stay in the form of the program.
//!
//! Knows names and rows, no family and no format of files.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::program::TensorSpec;
use crate::tensor::Tensor;

/// A tensor of a file that is made of parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTensor {
    /// Its name in the file.
    pub name: String,
    /// Whether the file has the parameters' rows as columns.
    pub transposed: bool,
    /// The parameters.
    pub parts: Vec<Part>,
}

/// A parameter as part of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name in the program.
    pub parameter: String,
    /// Which rows of the tensor (before it is transposed) are its own, in its order: `[first, count]` of each run.
    pub rows: Vec<[usize; 2]>,
}

/// The form that files have of a program's weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileForm {
    /// By name in the file.
    tensors: BTreeMap<String, FileTensor>,
    /// Shapes of the parameters in them.
    shapes: BTreeMap<String, Vec<usize>>,
    /// Name in the file of the tensor that a parameter is in.
    homes: BTreeMap<String, String>,
}

impl FileForm {
    /// The form of files of a program with tensors `specs`; tensors that none of `tensors` has as a part are in files as
    /// they are. Gives the specs that files have, those of joined tensors where the first of their parts was.
    ///
    /// # Errors
    /// In words, when a part is none of the program's parameters, or parts are not the rows of one matrix, each once.
    pub fn new(tensors: &[FileTensor], specs: &[TensorSpec]) -> Result<(FileForm, Vec<TensorSpec>), String> {
        let mut form = FileForm::default();
        let known: BTreeMap<&str, &TensorSpec> = specs.iter().map(|spec| (spec.name.as_str(), spec)).collect();
        let mut joined: BTreeMap<&str, TensorSpec> = BTreeMap::new();
        for tensor in tensors {
            let wrong = |problem: String| format!("`{}`, as files have it: {problem}", tensor.name);
            let parts = tensor.parts.iter().map(|part| {
                let spec = known.get(part.parameter.as_str());
                spec.copied().ok_or_else(|| wrong(format!("the program has no `{}`", part.parameter)))
            });
            let parts: Vec<&TensorSpec> = parts.collect::<Result<_, _>>()?;
            let first = parts.first().ok_or_else(|| wrong("it has no parts".into()))?;
            let mut covered: Vec<[usize; 2]> = Vec::new();
            for (part, spec) in tensor.parts.iter().zip(&parts) {
                let rows = part.rows.iter().try_fold(0usize, |sum, [_, count]| sum.checked_add(*count));
                let alike = spec.dtype == first.dtype && spec.role == first.role;
                let fits = spec.shape.first().copied() == rows && spec.shape.get(1..) == first.shape.get(1..);
                if !(alike && fits) || tensor.transposed && spec.shape.len() != 2 {
                    return Err(wrong(format!("`{}` of {:?} does not fit", spec.name, spec.shape)));
                }
                covered.extend(&part.rows);
                form.shapes.insert(part.parameter.clone(), spec.shape.clone());
                if form.homes.insert(part.parameter.clone(), tensor.name.clone()).is_some() {
                    return Err(wrong(format!("`{}` is in two tensors, or twice in one", part.parameter)));
                }
            }
            covered.sort_unstable();
            let mut rows = 0usize;
            for [start, count] in covered {
                let end = start.checked_add(count).filter(|_| start == rows);
                rows = end.ok_or_else(|| wrong(format!("rows from {rows} on are no part's or two parts'")))?;
            }
            let mut shape = first.shape.clone();
            if let Some(first) = shape.first_mut() {
                *first = rows;
            }
            if tensor.transposed {
                shape.reverse();
            }
            joined.insert(&first.name, TensorSpec { name: tensor.name.clone(), shape, ..(*first).clone() });
            if form.tensors.insert(tensor.name.clone(), tensor.clone()).is_some() {
                return Err(wrong("there are two".into()));
            }
        }
        let in_files = |spec: &TensorSpec| match joined.get(spec.name.as_str()) {
            Some(joined) => Some(joined.clone()),
            None => (!form.homes.contains_key(&spec.name)).then(|| spec.clone()),
        };
        let specs: Vec<TensorSpec> = specs.iter().filter_map(in_files).collect();
        let mut names = BTreeSet::new();
        match specs.iter().find(|spec| !names.insert(spec.name.as_str())) {
            Some(twice) => Err(format!("files would have `{}` twice", twice.name)),
            None => Ok((form, specs)),
        }
    }

    /// The name in files of the tensor that a parameter is, or is in.
    pub fn home<'n>(&'n self, parameter: &'n str) -> &'n str {
        self.homes.get(parameter).map_or(parameter, String::as_str)
    }

    /// The tensor of a file; `read` gives parameters by their names in the program.
    ///
    /// # Errors
    /// Those of `read`; `wrong` makes one of a parameter that is not of its shape.
    pub fn join<E>(
        &self,
        spec: &TensorSpec,
        mut read: impl FnMut(&str) -> Result<Tensor, E>,
        wrong: impl Fn(String) -> E,
    ) -> Result<Tensor, E> {
        let Some(tensor) = self.tensors.get(&spec.name) else { return read(&spec.name) };
        let too_large = || wrong(format!("`{}` of {:?} is too large", spec.name, spec.shape));
        let mut whole = Tensor::zeros(spec.dtype, spec.shape.clone()).ok_or_else(too_large)?;
        for part in &tensor.parts {
            let value = read(&part.parameter)?;
            let misfit = || wrong(format!("`{}` is {:?} {:?}", part.parameter, value.dtype(), value.shape()));
            let size = spec.dtype.size();
            let moved = moves(tensor, part, &spec.shape, value.shape(), size, |whole_at, part_at, bytes| {
                let from = value.bytes().get(part_at..part_at + bytes)?;
                whole.bytes_mut().get_mut(whole_at..whole_at + bytes)?.copy_from_slice(from);
                Some(())
            });
            moved.filter(|()| value.dtype() == spec.dtype).ok_or_else(misfit)?;
        }
        Ok(whole)
    }

    /// The parameters that a file's tensor is, by their names in the program.
    ///
    /// # Errors
    /// In words, when the tensor is not of the shape that files have.
    pub fn split<'t>(&'t self, name: &'t str, whole: &'t Tensor) -> Result<Vec<(&'t str, Cow<'t, Tensor>)>, String> {
        let Some(tensor) = self.tensors.get(name) else { return Ok(vec![(name, Cow::Borrowed(whole))]) };
        let part = |part: &'t Part| Ok((part.parameter.as_str(), self.part(&part.parameter, whole)?));
        tensor.parts.iter().map(part).collect()
    }

    /// A parameter, of the tensor of a file that is its [`home`](FileForm::home).
    ///
    /// # Errors
    /// As [`FileForm::split`].
    pub fn part<'t>(&self, parameter: &str, whole: &'t Tensor) -> Result<Cow<'t, Tensor>, String> {
        let tensor = self.homes.get(parameter).and_then(|home| self.tensors.get(home));
        let part = tensor.and_then(|t| Some((t, t.parts.iter().find(|part| part.parameter == parameter)?)));
        let (Some((tensor, part)), Some(shape)) = (part, self.shapes.get(parameter)) else {
            return Ok(Cow::Borrowed(whole));
        };
        let wrong = || format!("`{}` of {:?} has no `{parameter}` of {shape:?}", tensor.name, whole.shape());
        let mut value = Tensor::zeros(whole.dtype(), shape.clone()).ok_or_else(wrong)?;
        let size = whole.dtype().size();
        let moved = moves(tensor, part, whole.shape(), shape, size, |whole_at, part_at, bytes| {
            let from = whole.bytes().get(whole_at..whole_at + bytes)?;
            value.bytes_mut().get_mut(part_at..part_at + bytes)?.copy_from_slice(from);
            Some(())
        });
        moved.map(|()| Cow::Owned(value)).ok_or_else(wrong)
    }
}

/// Tells for all of a part which bytes of the whole, and which of the part, so many bytes belong together: `(whole, part,
/// bytes)`. Nothing where they do not fit or `each` gives nothing.
fn moves(
    tensor: &FileTensor,
    part: &Part,
    whole: &[usize],
    shape: &[usize],
    size: usize,
    mut each: impl FnMut(usize, usize, usize) -> Option<()>,
) -> Option<()> {
    let columns: usize = shape.iter().skip(1).product();
    let mut at = 0;
    for &[first, count] in &part.rows {
        if !tensor.transposed {
            each(first * columns * size, at * columns * size, count * columns * size)?;
            at += count;
            continue;
        }
        let of = *whole.last()?;
        for row in first..first + count {
            (0..columns)
                .try_for_each(|column| each((column * of + row) * size, (at * columns + column) * size, size))?;
            at += 1;
        }
    }
    (shape.first() == Some(&at)).then_some(())
}

#[cfg(test)]
mod tests {
    use lith_ir::DType;

    use super::*;
    use crate::training::program::Role;

    fn spec(name: &str, shape: &[usize]) -> TensorSpec {
        TensorSpec { name: name.into(), dtype: DType::F32, shape: shape.into(), role: Role::Trainable }
    }

    fn tensor(name: &str, transposed: bool, parts: &[(&str, &[[usize; 2]])]) -> FileTensor {
        let part =
            |(parameter, rows): &(&str, &[[usize; 2]])| Part { parameter: parameter.to_string(), rows: rows.to_vec() };
        FileTensor { name: name.into(), transposed, parts: parts.iter().map(part).collect() }
    }

    fn values(shape: &[usize], values: &[f32]) -> Tensor {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor::from_bytes(DType::F32, shape.to_vec(), &bytes).unwrap()
    }

    /// WLD-04, WLD-07: interleaved rows, and columns.
    #[test]
    fn joined_and_taken_apart() {
        let specs = [spec("q", &[2, 2]), spec("k", &[2, 2]), spec("b", &[3]), spec("c", &[2, 3])];
        let tensors = [
            tensor("qk", false, &[("q", &[[0, 1], [2, 1]]), ("k", &[[1, 1], [3, 1]])]),
            tensor("c", true, &[("c", &[[0, 2]])]),
        ];
        let (form, in_files) = FileForm::new(&tensors, &specs).unwrap();
        assert_eq!(in_files, [spec("qk", &[4, 2]), spec("b", &[3]), spec("c", &[3, 2])]);
        let held = BTreeMap::from([
            ("q", values(&[2, 2], &[1., 2., 3., 4.])),
            ("k", values(&[2, 2], &[5., 6., 7., 8.])),
            ("b", values(&[3], &[1., 2., 3.])),
            ("c", values(&[2, 3], &[1., 2., 3., 4., 5., 6.])),
        ]);
        let read = |name: &str| held.get(name).cloned().ok_or_else(|| name.to_string());
        let join = |spec: &TensorSpec| form.join(spec, read, |problem| problem).unwrap();
        assert_eq!(join(&in_files[0]), values(&[4, 2], &[1., 2., 5., 6., 3., 4., 7., 8.]));
        assert_eq!(join(&in_files[1]), held["b"]);
        assert_eq!(join(&in_files[2]), values(&[3, 2], &[1., 4., 2., 5., 3., 6.]));
        for (name, value) in &held {
            let home = in_files.iter().find(|spec| spec.name == form.home(name)).unwrap();
            assert_eq!(*form.part(name, &join(home)).unwrap(), *value);
        }
        let whole = join(&in_files[0]);
        let parts = form.split("qk", &whole).unwrap();
        assert_eq!(parts, [("q", Cow::Borrowed(&held["q"])), ("k", Cow::Borrowed(&held["k"]))]);
    }

    #[test]
    fn what_is_no_form() {
        let specs = [spec("q", &[2, 2]), spec("k", &[2, 3]), spec("b", &[2])];
        let refused = |tensor: FileTensor| FileForm::new(&[tensor], &specs).unwrap_err();
        assert!(refused(tensor("x", false, &[("v", &[[0, 2]])])).contains("no `v`"));
        assert!(refused(tensor("x", false, &[("q", &[[0, 2]]), ("k", &[[2, 2]])])).contains("does not fit"));
        assert!(refused(tensor("x", false, &[("q", &[[1, 2]])])).contains("rows from 0"));
        assert!(refused(tensor("x", true, &[("b", &[[0, 2]])])).contains("does not fit"));
        assert!(refused(tensor("b", false, &[("q", &[[0, 2]])])).contains("`b` twice"));
    }
}
