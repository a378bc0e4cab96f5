//! The layout of packed weights: panels of sixteen outputs.
//!
//! A weight of a linear layer is stored `[n, k]`, one row per output. Panel p holds outputs 16p..16p+16: for each k in
//! order, the sixteen weights that meet input k, side by side (zeros past n). So a kernel streams a panel from front to
//! back, and one layout serves vectors of any width up to sixteen lanes.

use super::simd::LANES;

/// How the elements of a panel are stored. The discriminant is what [`GemmArgs`](super::GemmArgs) carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Storage {
    /// IEEE single precision.
    F32 = 0,
    /// The upper half of a single.
    Bf16 = 1,
    /// IEEE half precision.
    F16 = 2,
}

impl Storage {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Storage::F32 => 4,
            Storage::Bf16 | Storage::F16 => 2,
        }
    }
}

/// Sizes that do not fit each other, or no machine.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PanelError {
    /// n × k elements exceed the address space.
    #[error("a weight of {n} by {k} elements is too large")]
    TooLarge {
        /// Outputs.
        n: usize,
        /// Inputs.
        k: usize,
    },
    /// A buffer has another length than the sizes ask for.
    #[error("{what} of a {n} by {k} weight: expected {expected} bytes, found {found}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Outputs.
        n: usize,
        /// Inputs.
        k: usize,
        /// Bytes it should have.
        expected: usize,
        /// Bytes it has.
        found: usize,
    },
}

/// Bytes of the panels of an `[n, k]` weight.
///
/// # Errors
/// If that number does not fit a `usize`.
pub fn panels_len(n: usize, k: usize, storage: Storage) -> Result<usize, PanelError> {
    n.div_ceil(LANES)
        .checked_mul(LANES * storage.size())
        .and_then(|bytes| bytes.checked_mul(k))
        .ok_or(PanelError::TooLarge { n, k })
}

fn check(what: &'static str, n: usize, k: usize, expected: usize, found: usize) -> Result<(), PanelError> {
    if expected == found { Ok(()) } else { Err(PanelError::Length { what, n, k, expected, found }) }
}

/// Packs `rows` (`[n, k]`, row-major, little-endian elements) into `out` ([`panels_len`] bytes).
///
/// # Errors
/// If a buffer's length is not what the sizes ask for.
pub fn pack_panels(rows: &[u8], storage: Storage, n: usize, k: usize, out: &mut [u8]) -> Result<(), PanelError> {
    check("the panels", n, k, panels_len(n, k, storage)?, out.len())?;
    check("the rows", n, k, n * k * storage.size(), rows.len())?;
    match storage.size() {
        4 => pack::<4>(rows, k, out),
        _ => pack::<2>(rows, k, out),
    }
    Ok(())
}

fn pack<const SIZE: usize>(rows: &[u8], k: usize, out: &mut [u8]) {
    if k == 0 {
        return;
    }
    // Sixteen rows are as long as the panel they become; only the last group can be shorter.
    let len = LANES * SIZE * k;
    for (panel, group) in out.chunks_exact_mut(len).zip(rows.chunks(len)) {
        if group.len() < len {
            panel.fill(0);
        }
        for (lane, row) in group.chunks_exact(SIZE * k).enumerate() {
            for (step, element) in panel.chunks_exact_mut(LANES * SIZE).zip(row.chunks_exact(SIZE)) {
                step[lane * SIZE..][..SIZE].copy_from_slice(element);
            }
        }
    }
}

/// Undoes [`pack_panels`]: `panels` back to `rows` (`[n, k]`, row-major).
///
/// # Errors
/// If a buffer's length is not what the sizes ask for.
pub fn unpack_panels(panels: &[u8], storage: Storage, n: usize, k: usize, rows: &mut [u8]) -> Result<(), PanelError> {
    check("the panels", n, k, panels_len(n, k, storage)?, panels.len())?;
    check("the rows", n, k, n * k * storage.size(), rows.len())?;
    let size = storage.size();
    if k == 0 {
        return Ok(());
    }
    for (output, row) in rows.chunks_exact_mut(size * k).enumerate() {
        let (panel, lane) = (output / LANES, output % LANES);
        let panel = &panels[panel * LANES * size * k..][..LANES * size * k];
        for (element, step) in row.chunks_exact_mut(size).zip(panel.chunks_exact(LANES * size)) {
            element.copy_from_slice(&step[lane * size..][..size]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_places_output_and_input_and_undoes() {
        for storage in [Storage::F32, Storage::Bf16, Storage::F16] {
            for (n, k) in [(0, 5), (1, 1), (16, 3), (17, 7), (33, 0), (40, 5)] {
                let size = storage.size();
                let rows: Vec<u8> = (0..n * k * size).map(|i| (i * 7 % 251 + 1) as u8).collect();
                let mut panels = vec![0xAA; panels_len(n, k, storage).unwrap()];
                pack_panels(&rows, storage, n, k, &mut panels).unwrap();
                for output in 0..n.div_ceil(LANES) * LANES {
                    for input in 0..k {
                        let at = ((output / LANES * k + input) * LANES + output % LANES) * size;
                        let found = &panels[at..at + size];
                        if output < n {
                            assert_eq!(found, &rows[(output * k + input) * size..][..size]);
                        } else {
                            assert!(found.iter().all(|&b| b == 0));
                        }
                    }
                }
                let mut back = vec![0; rows.len()];
                unpack_panels(&panels, storage, n, k, &mut back).unwrap();
                assert_eq!(back, rows);
            }
        }
    }

    #[test]
    fn wrong_lengths_are_errors() {
        let mut out = [0; 64];
        let found = pack_panels(&[0; 4], Storage::F32, 2, 1, &mut out).unwrap_err();
        assert_eq!(found, PanelError::Length { what: "the rows", n: 2, k: 1, expected: 8, found: 4 });
        let found = unpack_panels(&[0; 63], Storage::F32, 1, 1, &mut out).unwrap_err();
        assert_eq!(found, PanelError::Length { what: "the panels", n: 1, k: 1, expected: 64, found: 63 });
        let huge = usize::MAX / 8;
        assert_eq!(panels_len(huge, huge, Storage::F32), Err(PanelError::TooLarge { n: huge, k: huge }));
    }
}
