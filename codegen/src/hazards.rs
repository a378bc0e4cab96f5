//! Which kernels touch the same bytes: a barrier stands only between those. Knows ranges of memory.

use lith_ir::{Dim, Symbols};

/// Bytes that a kernel touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// Offset and size in the arena.
    Arena(Dim, Dim),
    /// A result of the graph.
    Result(usize),
    /// A state.
    State(String),
    /// An argument. Those that are written are paged caches, each another state.
    Arg(usize),
    /// Memory that the threads of a call share within a kernel.
    Scratch,
    /// The tickets that threads draw until the next barrier.
    Tickets,
    /// What nothing writes while the graph runs: weights, constants.
    Constant,
}

impl Bytes {
    /// Whether two ranges may have a byte in common.
    fn overlaps(&self, other: &Bytes, symbols: &Symbols) -> bool {
        match (self, other) {
            (Bytes::Constant, _) | (_, Bytes::Constant) => false,
            (Bytes::Arena(a, a_size), Bytes::Arena(b, b_size)) => {
                let before =
                    |a: &Dim, size: &Dim, b: &Dim| (b.clone() - a.clone() - size.clone()).bounds(symbols).0 >= 0;
                !before(a, a_size, b) && !before(b, b_size, a)
            }
            _ => self == other,
        }
    }
}

/// A read or write of some bytes.
#[derive(Clone, Debug)]
pub struct Access {
    /// The bytes.
    pub bytes: Bytes,
    /// Whether they are written.
    pub write: bool,
}

/// What kernels have touched since the last barrier.
#[derive(Debug, Default)]
pub struct Hazards(Vec<Access>);

impl Hazards {
    /// Whether kernels that run at the same time would race with these accesses.
    pub fn conflict(&self, accesses: &[Access], symbols: &Symbols) -> bool {
        let races = |a: &Access, b: &Access| (a.write || b.write) && a.bytes.overlaps(&b.bytes, symbols);
        accesses.iter().any(|a| self.0.iter().any(|b| races(a, b)))
    }

    /// Adds a kernel's accesses.
    pub fn add(&mut self, accesses: Vec<Access>) {
        self.0.extend(accesses);
    }

    /// Whether any kernel ran since the last barrier.
    pub fn pending(&self) -> bool {
        !self.0.is_empty()
    }

    /// A barrier.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lith_ir::Symbol;

    #[test]
    fn only_common_bytes_conflict() {
        let t = Dim::symbol(&Symbol::new("t"));
        let symbols = Symbols::new();
        let bytes = |at: Dim, write| Access { bytes: Bytes::Arena(at, t.clone() * Dim::from(4i64)), write };
        let mut hazards = Hazards::default();
        hazards.add(vec![bytes(Dim::default(), true), Access { bytes: Bytes::Constant, write: false }]);
        assert!(!hazards.conflict(&[bytes(t.clone() * Dim::from(4i64), true)], &symbols));
        assert!(hazards.conflict(&[bytes(t.clone() * Dim::from(2i64), false)], &symbols));
        assert!(!hazards.conflict(&[Access { bytes: Bytes::Result(0), write: true }], &symbols));
        hazards.add(vec![Access { bytes: Bytes::Arg(1), write: true }]);
        assert!(hazards.conflict(&[Access { bytes: Bytes::Arg(1), write: false }], &symbols));
        assert!(!hazards.conflict(&[Access { bytes: Bytes::Arg(2), write: true }], &symbols));
        let mut reads = Hazards::default();
        reads.add(vec![bytes(Dim::default(), false)]);
        assert!(!reads.conflict(&[bytes(Dim::default(), false)], &symbols));
        assert!(reads.conflict(&[bytes(Dim::default(), true)], &symbols));
    }
}
