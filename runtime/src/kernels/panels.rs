//! Packed weights: a header that says what they are, then panels of sixteen outputs.
//!
//! A weight of a linear layer is `[n, k]`, one row per output; a table of an embedding likewise, one row per entry. Panel
//! p holds outputs 16p..16p+16. Of floats it has for each k in order the sixteen weights that meet input k, side by side
//! (zeros past n); of quantized weights what [`quant::layout`](super::quant) says. So a kernel streams a panel from
//! front to back, and one layout serves vectors of any width up to sixteen lanes. Since packed weights describe
//! themselves, the same compiled code serves layers that are stored differently.

use half::{bf16, f16};
use lith_ir::dtype::DType;
use lith_ir::quant::{PER_ROW, QuantError, QuantMatrix, Scales, Scheme, Storage, Values};

use super::quant::layout::QuantLayout;
use super::simd::LANES;

/// Bytes before the first panel.
pub(crate) const HEADER: usize = 64;
/// The first four bytes; the last of them is the version of the layout.
const MAGIC: [u8; 4] = *b"LPW\x01";

/// Weights that cannot be packed, or bytes that are no packed weights.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum PackError {
    /// The packed weight would exceed the address space.
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
    /// Panels hold `f32`, `f16`, `bf16` or codes.
    #[error("panels of {0}: expected f32, f16 or bf16")]
    DType(DType),
    /// A scheme no kernel knows.
    #[error("{scheme:?} cannot be packed: {problem}")]
    Scheme {
        /// The scheme.
        scheme: Scheme,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A quantized matrix that contradicts its scheme.
    #[error("row {row} of a quantized matrix: {what} {value} {problem}")]
    Value {
        /// Which part.
        what: &'static str,
        /// Where.
        row: usize,
        /// The value.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A quantized matrix whose parts do not fit each other.
    #[error(transparent)]
    Quant(#[from] QuantError),
    /// Bytes that do not start with the header of packed weights of this version.
    #[error("no packed weights: {0}")]
    Header(&'static str),
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub storage: Storage,
    pub n: usize,
    pub k: usize,
}

impl Header {
    /// Bytes of the panels behind it.
    fn panels_len(&self) -> Result<usize, PackError> {
        let too_large = PackError::TooLarge { n: self.n, k: self.k };
        let panel = match self.storage {
            Storage::Float(dtype) => self.k.checked_mul(LANES * element_size(dtype)?).ok_or(too_large.clone())?,
            Storage::Quantized(scheme) => QuantLayout::new(&scheme, self.n, self.k)?.panel,
        };
        panel.checked_mul(self.n.div_ceil(LANES)).filter(|len| isize::try_from(len + HEADER).is_ok()).ok_or(too_large)
    }

    fn to_bytes(self) -> [u8; HEADER] {
        let (mut kind, mut small) = (3u8, [0u8; 6]);
        let (mut super_groups, mut group) = (0u64, 0u64);
        match self.storage {
            Storage::Float(dtype) => kind = FLOATS.iter().position(|&d| d == dtype).unwrap_or(FLOATS.len()) as u8,
            Storage::Quantized(scheme) => {
                let (values, zero) = match scheme.values {
                    Values::Offset { zero } => (0, zero),
                    Values::Nl4 => (1, 0),
                    Values::Nf4 => (2, 0),
                };
                let scales = match scheme.scales {
                    Scales::F32 => 0,
                    Scales::F16 => 1,
                    Scales::Super { groups } => {
                        super_groups = groups as u64;
                        2
                    }
                };
                small = [scheme.bits, values, zero, scales, scheme.mins.into(), 0];
                group = if scheme.group == PER_ROW { u64::MAX } else { scheme.group as u64 };
            }
        }
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = kind;
        bytes[5..11].copy_from_slice(&small);
        for (word, value) in bytes[16..48].chunks_exact_mut(8).zip([self.n as u64, self.k as u64, group, super_groups])
        {
            word.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// What `bytes` say; their sizes are not checked against anything.
    pub(crate) fn from_bytes(bytes: &[u8; HEADER]) -> Result<Header, PackError> {
        if bytes[..4] != MAGIC {
            return Err(PackError::Header("another beginning, or another version"));
        }
        let word = |i: usize| {
            let bytes = std::array::from_fn(|b| bytes[16 + 8 * i + b]);
            usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| PackError::Header("a size beyond this machine"))
        };
        let [bits, values, zero, scales, mins, _] = std::array::from_fn(|i| bytes[5 + i]);
        let storage = match FLOATS.get(usize::from(bytes[4])) {
            Some(&dtype) => Storage::Float(dtype),
            None if bytes[4] == 3 => Storage::Quantized(Scheme {
                bits,
                values: match values {
                    0 => Values::Offset { zero },
                    1 => Values::Nl4,
                    2 => Values::Nf4,
                    _ => return Err(PackError::Header("an unknown kind of values")),
                },
                group: word(2)?,
                scales: match scales {
                    0 => Scales::F32,
                    1 => Scales::F16,
                    2 => Scales::Super { groups: word(3)? },
                    _ => return Err(PackError::Header("an unknown kind of scales")),
                },
                mins: mins != 0,
            }),
            None => return Err(PackError::Header("an unknown kind of storage")),
        };
        Ok(Header { storage, n: word(0)?, k: word(1)? })
    }

    /// The header of packed weights in memory.
    ///
    /// # Safety
    /// `packed` points to what [`pack_floats`] or [`pack_quantized`] wrote.
    ///
    /// # Panics
    /// If it does not.
    pub(crate) unsafe fn read(packed: *const u8) -> Header {
        // SAFETY: packed weights are at least a header long.
        let bytes = unsafe { packed.cast::<[u8; HEADER]>().read_unaligned() };
        Header::from_bytes(&bytes).expect("packed weights")
    }
}

/// The floating-point types of panels, by their number in the header.
const FLOATS: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

/// Bytes of an element of panels of floats.
fn element_size(dtype: DType) -> Result<usize, PackError> {
    if FLOATS.contains(&dtype) { Ok(dtype.size()) } else { Err(PackError::DType(dtype)) }
}

/// Bytes of an `[n, k]` weight once packed, the header included.
///
/// # Errors
/// If the storage cannot be packed, or the length does not fit this machine.
pub fn packed_len(n: usize, k: usize, storage: &Storage) -> Result<usize, PackError> {
    Ok(HEADER + Header { storage: *storage, n, k }.panels_len()?)
}

fn check(what: &'static str, n: usize, k: usize, expected: usize, found: usize) -> Result<(), PackError> {
    if expected == found { Ok(()) } else { Err(PackError::Length { what, n, k, expected, found }) }
}

/// Writes the header to `out`, after checking its length, and gives the place for the panels.
fn start(header: Header, out: &mut [u8]) -> Result<&mut [u8], PackError> {
    check("the packed form", header.n, header.k, packed_len(header.n, header.k, &header.storage)?, out.len())?;
    let (head, panels) = out.split_at_mut(HEADER);
    head.copy_from_slice(&header.to_bytes());
    Ok(panels)
}

/// Packs `rows` (`[n, k]`, row-major, little-endian elements of `dtype`) into `out` ([`packed_len`] bytes).
///
/// # Errors
/// If panels cannot hold the type, or a buffer's length is not what the sizes ask for.
pub fn pack_floats(rows: &[u8], dtype: DType, n: usize, k: usize, out: &mut [u8]) -> Result<(), PackError> {
    let panels = start(Header { storage: Storage::Float(dtype), n, k }, out)?;
    check("the rows", n, k, n * k * dtype.size(), rows.len())?;
    match dtype.size() {
        4 => pack::<4>(rows, k, panels),
        _ => pack::<2>(rows, k, panels),
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

/// Packs a quantized matrix into `out` ([`packed_len`] bytes), nothing of it lost.
///
/// # Errors
/// If the matrix contradicts its scheme (a code too large, a scale that is not of its kind), if the scheme cannot be
/// packed, or `out` has another length.
pub fn pack_quantized(matrix: &QuantMatrix, out: &mut [u8]) -> Result<(), PackError> {
    let header = Header { storage: Storage::Quantized(matrix.scheme), n: matrix.rows, k: matrix.cols };
    let layout = QuantLayout::new(&matrix.scheme, matrix.rows, matrix.cols)?;
    matrix.check()?;
    layout.check(matrix)?;
    let panels = start(header, out)?;
    for (i, panel) in panels.chunks_exact_mut(layout.panel.max(1)).enumerate() {
        layout.pack(matrix, i * LANES, panel);
    }
    Ok(())
}

/// Packed weights, checked to be whole.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    header: Header,
    panels: &'a [u8],
}

impl<'a> Packed<'a> {
    /// The packed weights that `bytes` are, no byte more or less.
    ///
    /// # Errors
    /// If they are none.
    pub fn new(bytes: &'a [u8]) -> Result<Packed<'a>, PackError> {
        let (head, panels) = bytes.split_first_chunk::<HEADER>().ok_or(PackError::Header("shorter than a header"))?;
        let header = Header::from_bytes(head)?;
        check("the panels", header.n, header.k, header.panels_len()?, panels.len())?;
        Ok(Packed { header, panels })
    }

    /// How the weight is stored.
    pub fn storage(&self) -> Storage {
        self.header.storage
    }

    /// Rows: outputs of a layer, entries of a table.
    pub fn n(&self) -> usize {
        self.header.n
    }

    /// Columns: inputs of a layer, the width of a table.
    pub fn k(&self) -> usize {
        self.header.k
    }

    /// The values of a row, into `out` of k.
    ///
    /// # Panics
    /// If there is no such row, or `out` has another length.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let Header { storage, n, k } = self.header;
        assert!(row < n && out.len() == k, "row {row} of {n}, {} values of {k}", out.len());
        // SAFETY: the panels are whole.
        unsafe { Row::of(storage, k, self.panels.as_ptr(), row).values(out) }
    }

    /// Undoes [`pack_floats`]: the elements as they were, `[n, k]`, row-major. `None` for quantized weights.
    pub fn floats(&self) -> Option<Vec<u8>> {
        let Header { storage: Storage::Float(dtype), n, k } = self.header else { return None };
        let size = dtype.size();
        let mut rows = vec![0; n * k * size];
        for (output, row) in rows.chunks_exact_mut((size * k).max(1)).enumerate() {
            let panel = &self.panels[output / LANES * LANES * size * k..][..LANES * size * k];
            for (element, step) in row.chunks_exact_mut(size).zip(panel.chunks_exact(LANES * size)) {
                element.copy_from_slice(&step[output % LANES * size..][..size]);
            }
        }
        Some(rows)
    }

    /// Undoes [`pack_quantized`]. `None` for floats.
    pub fn quantized(&self) -> Option<QuantMatrix> {
        let Header { storage: Storage::Quantized(scheme), n, k } = self.header else { return None };
        let layout = QuantLayout::new(&scheme, n, k).ok()?;
        let mut matrix = QuantMatrix {
            scheme,
            rows: n,
            cols: k,
            codes: Vec::new(),
            scales: Vec::new(),
            mins: Vec::new(),
            sub_scales: Vec::new(),
            sub_mins: Vec::new(),
        };
        for row in 0..n {
            let panel = &self.panels[row / LANES * layout.panel..][..layout.panel];
            layout.unpack(panel, row % LANES, &mut matrix);
        }
        Some(matrix)
    }
}

/// A row of packed weights, wherever they lie.
pub(crate) struct Row {
    storage: Storage,
    panel: *const u8,
    lane: usize,
}

impl Row {
    /// Row `row` of the panels at `panels`.
    ///
    /// # Safety
    /// There are panels of this storage, with that row, for as long as the result is used.
    pub(crate) unsafe fn of(storage: Storage, k: usize, panels: *const u8, row: usize) -> Row {
        let panel = match storage {
            Storage::Float(dtype) => LANES * dtype.size() * k,
            Storage::Quantized(scheme) => QuantLayout::of_packed(&scheme, k).panel,
        };
        // SAFETY: the panel of the row is there, says the caller.
        Row { storage, panel: unsafe { panels.add(row / LANES * panel) }, lane: row % LANES }
    }

    /// Its values, into `out` of as many as it has.
    ///
    /// # Safety
    /// `out` has the k values that [`Row::of`] was told.
    pub(crate) unsafe fn values(&self, out: &mut [f32]) {
        match self.storage {
            Storage::Quantized(scheme) => {
                let layout = QuantLayout::of_packed(&scheme, out.len());
                // SAFETY: the panel is whole.
                let panel = unsafe { std::slice::from_raw_parts(self.panel, layout.panel) };
                layout.row(panel, self.lane, out);
            }
            // SAFETY: the panel has sixteen elements for each of the k values.
            Storage::Float(DType::F32) => unsafe { self.floats::<f32>(out, |x| x) },
            // SAFETY: as above.
            Storage::Float(DType::F16) => unsafe { self.floats::<f16>(out, f16::to_f32) },
            // SAFETY: as above.
            Storage::Float(_) => unsafe { self.floats::<bf16>(out, bf16::to_f32) },
        }
    }

    /// # Safety
    /// The panel has sixteen elements for each value of `out`.
    unsafe fn floats<E>(&self, out: &mut [f32], value: impl Fn(E) -> f32) {
        for (i, out) in out.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *out = value(unsafe { self.panel.cast::<E>().add(i * LANES + self.lane).read_unaligned() });
        }
    }
}
