//! Rows added to rows of a table, by its definition.

use super::{Random, bits};
use crate::kernels::{ScatterArgs, scatter_add};

#[test]
fn updates_are_added_in_order() {
    let mut random = Random(5);
    for (rows, count, width) in [(1, 3, 1), (0, 2, 4), (7, 0, 3), (50, 200, 33), (3, 40, 16)] {
        let x = random.values(rows * width);
        let updates = random.values(count * width);
        let indices: Vec<i32> = (0..count).map(|_| (random.bits() % (rows as u64 + 3)) as i32 - 1).collect();
        let mut expected = x.clone();
        for (i, &row) in indices.iter().enumerate() {
            if (0..rows as i32).contains(&row) {
                for c in 0..width {
                    expected[row as usize * width + c] += updates[i * width + c];
                }
            }
        }
        for (threads, in_place) in [(1, false), (1, true), (3, false), (2, true)] {
            let mut out = if in_place { x.clone() } else { vec![9.0; rows * width] };
            let args = ScatterArgs {
                x: if in_place { out.as_ptr() } else { x.as_ptr() },
                indices: indices.as_ptr(),
                updates: updates.as_ptr(),
                out: out.as_mut_ptr(),
                rows: rows as i64,
                count: count as i64,
                width: width as i64,
            };
            for thread in 0..threads {
                // SAFETY: the operands have the sizes that the arguments tell.
                unsafe { scatter_add(&args, thread, threads) };
            }
            assert_eq!(bits(&out), bits(&expected), "{rows} {count} {width} {threads} {in_place}");
        }
    }
}
