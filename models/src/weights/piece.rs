//! Parameters that are parts of stored tensors: rows of a fused projection, a transposed matrix (WLD-04, WLD-07).

use std::borrow::Cow;

/// Which rows of a matrix, or elements of a vector: `blocks` times `len` neighbouring ones, `stride` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The first row.
    pub first: usize,
    /// Rows of a block.
    pub len: usize,
    /// From the start of a block to the start of the next.
    pub stride: usize,
    /// Number of blocks.
    pub blocks: usize,
    /// Rows of the whole matrix.
    pub of: usize,
}

impl Rows {
    /// All of `rows`.
    pub const fn all(rows: usize) -> Rows {
        Rows { first: 0, len: rows, stride: rows, blocks: 1, of: rows }
    }

    /// Matrices of `parts` rows one below the other: that with the number `i`. Nothing where there is none.
    pub fn part(parts: &[usize], i: usize) -> Rows {
        let len = parts.get(i).copied().unwrap_or(0);
        Rows { first: parts.iter().take(i).sum(), len, stride: len, blocks: 1, of: parts.iter().sum() }
    }

    /// The same where the whole repeats `blocks` times: [`Rows::part`] of each.
    pub fn part_of_each(parts: &[usize], i: usize, blocks: usize) -> Rows {
        let one = Rows::part(parts, i);
        Rows { stride: one.of, blocks, of: one.of.saturating_mul(blocks), ..one }
    }

    /// The number of rows.
    pub const fn count(&self) -> usize {
        self.len.saturating_mul(self.blocks)
    }

    /// First row and number of the rows of each run of neighbours, in order.
    pub fn runs(self) -> Vec<[usize; 2]> {
        match self.len == self.stride {
            true => vec![[self.first, self.count()]],
            false => (0..self.blocks).map(|block| [self.first + block * self.stride, self.len]).collect(),
        }
    }

    /// The rows' numbers in the whole matrix, in order.
    pub fn indices(self) -> impl Iterator<Item = usize> + Clone {
        (0..self.blocks).flat_map(move |block| (0..self.len).map(move |i| self.first + block * self.stride + i))
    }
}

/// How a parameter lies in a stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The stored tensor's name, as [`Wanted::name`](super::Wanted::name) is one.
    pub of: String,
    /// Its rows, after the transposition.
    pub rows: Rows,
    /// Whether the stored matrix has the parameter's rows as columns.
    pub transposed: bool,
}

impl Piece {
    /// The shape that the stored tensor has when the parameter has `shape`.
    pub fn stored_shape(&self, shape: &[usize]) -> Vec<usize> {
        let mut stored = shape.to_vec();
        if let Some(rows) = stored.first_mut() {
            *rows = self.rows.of;
        }
        if self.transposed {
            stored.reverse();
        }
        stored
    }

    /// Takes the piece out of the bytes of a stored tensor of the shape that [`Piece::stored_shape`] gives for `shape`,
    /// with elements of `size` bytes.
    pub fn take<'a>(&self, bytes: Cow<'a, [u8]>, shape: &[usize], size: usize) -> Cow<'a, [u8]> {
        let columns: usize = shape.iter().skip(1).product();
        let rows = self.rows;
        if !self.transposed && rows.blocks == 1 {
            let range = rows.first * columns * size..(rows.first + rows.len) * columns * size;
            return match bytes {
                Cow::Borrowed(bytes) => Cow::Borrowed(bytes.get(range).unwrap_or_default()),
                Cow::Owned(bytes) => Cow::Owned(bytes.get(range).unwrap_or_default().to_vec()),
            };
        }
        let mut taken = Vec::with_capacity(shape.iter().product::<usize>() * size);
        let mut push = |at: usize, count: usize| {
            taken.extend_from_slice(bytes.get(at * size..(at + count) * size).unwrap_or_default());
        };
        for row in rows.indices() {
            if self.transposed {
                (0..columns).for_each(|column| push(column * rows.of + row, 1));
            } else {
                push(row * columns, columns);
            }
        }
        Cow::Owned(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// WLD-04, WLD-07
    #[test]
    fn rows_and_columns() {
        let take = |rows: Rows, transposed: bool, shape: &[usize], stored: &[u8]| {
            let piece = Piece { of: String::new(), rows, transposed };
            assert_eq!(piece.stored_shape(shape).iter().product::<usize>(), stored.len());
            piece.take(Cow::Borrowed(stored), shape, 1).into_owned()
        };
        let stored: Vec<u8> = (0..24).collect();
        assert_eq!(take(Rows::part(&[1, 3, 8], 1), false, &[3, 2], &stored), [2, 3, 4, 5, 6, 7]);
        assert_eq!(take(Rows::part_of_each(&[2, 1, 1], 2, 3), false, &[3, 2], &stored), [6, 7, 14, 15, 22, 23]);
        assert_eq!(take(Rows::part(&[3, 3], 1), true, &[3, 4], &stored), [3, 9, 15, 21, 4, 10, 16, 22, 5, 11, 17, 23]);
        assert_eq!(take(Rows::all(24), false, &[24], &stored), stored);
        assert_eq!(Rows::part(&[1, 3, 8], 1).runs(), [[1, 3]]);
        assert_eq!(Rows::part_of_each(&[2, 1, 1], 2, 3).runs(), [[3, 1], [7, 1], [11, 1]]);
    }
}
