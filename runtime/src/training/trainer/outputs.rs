//! Outputs and labels of many batches as one array each. (EC-02)

use lith_ir::DType;

use super::TrainerError;
use crate::tensor::Tensor;

/// What fills rows that are shorter than the longest.
const FILL: i32 = -100;

/// Arrays by name, each grown batch by batch along its first axis.
#[derive(Debug, Default)]
pub(super) struct Gathered(Vec<(String, Vec<Tensor>)>);

impl Gathered {
    pub(super) fn push(&mut self, name: &str, tensor: Tensor) {
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some((_, parts)) => parts.push(tensor),
            None => self.0.push((name.to_string(), vec![tensor])),
        }
    }

    pub(super) fn joined(self) -> Result<Vec<(String, Tensor)>, TrainerError> {
        self.0
            .into_iter()
            .map(|(name, parts)| {
                let tensor = join(&name, &parts)?;
                Ok((name, tensor))
            })
            .collect()
    }
}

/// The rows of all parts one after the other. Where parts differ in their second axis (padded batches) rows are filled
/// with -100 to the longest.
fn join(name: &str, parts: &[Tensor]) -> Result<Tensor, TrainerError> {
    let wrong = |problem: String| TrainerError::Metrics(format!("output {name}: {problem}"));
    let Some(first) = parts.first() else { return Err(wrong("no batch has it".into())) };
    let (dtype, rank) = (first.dtype(), first.shape().len());
    let axis = |part: &Tensor, at: usize| part.shape().get(at).copied().unwrap_or(1);
    let tail = |part: &Tensor| part.shape().get(2..).map(<[usize]>::to_vec).unwrap_or_default();
    if let Some(odd) = parts
        .iter()
        .find(|part| part.dtype() != dtype || part.shape().len() != rank || tail(part) != tail(first) || rank == 0)
    {
        return Err(wrong(format!("batches of {:?} and {:?} cannot be joined", first.shape(), odd.shape())));
    }
    let wide = parts.iter().map(|part| axis(part, 1)).max().unwrap_or(1);
    let fill: Vec<u8> = match dtype {
        DType::F32 => (FILL as f32).to_ne_bytes().to_vec(),
        DType::I32 => FILL.to_ne_bytes().to_vec(),
        _ if parts.iter().all(|part| axis(part, 1) == wide) => Vec::new(),
        _ => return Err(wrong(format!("rows of {dtype:?} and different lengths cannot be filled up"))),
    };
    let mut bytes = Vec::new();
    for part in parts {
        let inner: usize = tail(part).iter().product::<usize>() * dtype.size();
        let (narrow, rows) = (axis(part, 1) * inner, axis(part, 0));
        for row in 0..rows {
            bytes.extend_from_slice(&part.bytes()[row * narrow..(row + 1) * narrow]);
            let missing = (wide * inner).saturating_sub(narrow) / dtype.size();
            bytes.extend(fill.iter().copied().cycle().take(missing * fill.len()));
        }
    }
    let mut shape = first.shape().to_vec();
    shape[0] = parts.iter().map(|part| axis(part, 0)).sum();
    if let Some(second) = shape.get_mut(1) {
        *second = wide;
    }
    Tensor::from_bytes(dtype, shape, &bytes).ok_or_else(|| wrong("it is too large".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(shape: &[usize], values: &[f32]) -> Tensor {
        Tensor::from_bytes(DType::F32, shape.to_vec(), bytemuck::cast_slice(values)).unwrap()
    }

    /// EC-02: rows of all batches; ragged ones are filled with -100; what cannot be joined is an error.
    #[test]
    fn ec_02_joined_batches() {
        let rows = join("logits", &[f32s(&[2, 2], &[1., 2., 3., 4.]), f32s(&[1, 2], &[5., 6.])]).unwrap();
        assert_eq!((rows.shape(), rows.f32s()), (&[3, 2][..], &[1., 2., 3., 4., 5., 6.][..]));
        let flat = join("loss", &[f32s(&[1], &[1.]), f32s(&[0], &[]), f32s(&[2], &[2., 3.])]).unwrap();
        assert_eq!((flat.shape(), flat.f32s()), (&[3][..], &[1., 2., 3.][..]));
        let ragged = join("logits", &[f32s(&[1, 2, 1], &[1., 2.]), f32s(&[2, 1, 1], &[3., 4.])]).unwrap();
        assert_eq!((ragged.shape(), ragged.f32s()), (&[3, 2, 1][..], &[1., 2., 3., -100., 4., -100.][..]));
        assert!(join("logits", &[f32s(&[1, 2, 1], &[1., 2.]), f32s(&[1, 1, 2], &[3., 4.])]).is_err());
        assert!(join("logits", &[f32s(&[1, 1], &[1.]), f32s(&[1], &[3.])]).is_err());
        assert!(join("logits", &[f32s(&[], &[1.])]).is_err());
    }
}
