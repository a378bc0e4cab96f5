//! Powers of scores and their sums, for a few rows at once.

use super::super::simd::{LANES, Simd};
use super::super::vmath::{exp2_of_finite, exp2_of_negative};

/// Turns `rows` rows of `n` scores (`ld` apart) into 2^(score · unit - m), m being the row's new running maximum of score · unit.
/// Updates maxima and sums (a lane for each row), and answers by what earlier results of each row shrink.
///
/// # Safety
/// `scores` holds the rows `ld` apart, `rows` ≤ 16, `n` is a multiple of sixteen, and `unit` is positive.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(in super::super) unsafe fn exponentiate<S: Simd>(
    s: S,
    scores: *mut f32,
    ld: usize,
    rows: usize,
    n: usize,
    unit: S::V,
    maxima: &mut [f32],
    sums: &mut [f32],
) -> [f32; LANES] {
    // SAFETY: the caller's promise.
    unsafe {
        let greatest = greatest_of_rows(s, scores, ld, rows, n);
        powers(s, scores, ld, rows, n, unit, s.mul(greatest, unit), maxima, sums)
    }
}

/// The greatest of each row's `n` scores (`ld` apart), a lane for each row.
///
/// # Safety
/// `scores` holds the rows `ld` apart, `rows` ≤ 16, and `n` is a multiple of sixteen.
#[inline(always)]
pub(super) unsafe fn greatest_of_rows<S: Simd>(s: S, scores: *const f32, ld: usize, rows: usize, n: usize) -> S::V {
    // The lanes of each row's vector are reduced for all rows at once, after a transposition.
    let mut largest = [s.splat(f32::NEG_INFINITY); LANES];
    for (row, largest) in largest[..rows].iter_mut().enumerate() {
        let mut x = s.splat(f32::NEG_INFINITY);
        for i in (0..n).step_by(LANES) {
            // SAFETY: the caller's promise.
            x = s.max(x, unsafe { s.load(scores.add(row * ld + i)) });
        }
        *largest = x;
    }
    let mut columns = s.transpose(largest);
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            columns[i] = s.max(columns[i], columns[i + half]);
        }
    }
    columns[0]
}

/// Turns `rows` rows of `n` scores (`ld` apart) into 2^(score · unit - m), m being the greater of the row's shift so far and
/// `shift`, which becomes its shift. Adds the powers to the sums (a lane for each row), and answers by what earlier results
/// of each row shrink.
///
/// # Safety
/// `scores` holds the rows `ld` apart, `rows` ≤ 16, and `n` is a multiple of sixteen.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn powers<S: Simd>(
    s: S,
    scores: *mut f32,
    ld: usize,
    rows: usize,
    n: usize,
    unit: S::V,
    shift: S::V,
    shifts: &mut [f32],
    sums: &mut [f32],
) -> [f32; LANES] {
    // SAFETY: both are a vector long.
    let (before, sum) = unsafe { (s.load(shifts.as_ptr()), s.load(sums.as_ptr())) };
    let maximum = s.max(before, shift);
    // With every key masked so far, any finite shift will do: all powers are zero.
    let shift = s.select_lt(s.splat(f32::MIN), maximum, maximum, s.splat(0.0));
    let taken = s.to_array(shift);
    let mut totals = [s.splat(0.0); LANES];
    for (row, total) in totals[..rows].iter_mut().enumerate() {
        let negated = s.splat(-taken[row]);
        let mut x = s.splat(0.0);
        for i in (0..n).step_by(LANES) {
            // SAFETY: the caller's promise.
            unsafe {
                let score = scores.add(row * ld + i);
                let power = exp2_of_negative(s, s.fma(s.load(score), unit, negated));
                s.store(score, power);
                x = s.add(x, power);
            }
        }
        *total = x;
    }
    let shrink = exp2_of_negative(s, s.sub(before, shift));
    // SAFETY: both are a vector long.
    unsafe {
        s.store(shifts.as_mut_ptr(), maximum);
        s.store(sums.as_mut_ptr(), s.fma(sum, shrink, sum_of_lanes(s, totals)));
    }
    s.to_array(shrink)
}

/// Turns rows of scores into 2^score, row r having `seen[r]` of them and zeros behind up to `ld`; answers their sums, a
/// lane for each row. These are the powers and sums of [`powers`] with a shift of 0, by fewer operations, where the sum is
/// no NaN; it is NaN or infinite where a shift is needed.
///
/// # Safety
/// `scores` holds the rows `ld` apart, a multiple of sixteen and no less than any count; there are at most 16 rows.
#[inline(always)]
pub(super) unsafe fn powers_unshifted<S: Simd>(s: S, scores: *mut f32, ld: usize, seen: &[usize]) -> S::V {
    let lanes: [f32; LANES] = std::array::from_fn(|lane| lane as f32);
    // SAFETY: an array of sixteen.
    let lanes = unsafe { s.load(lanes.as_ptr()) };
    let mut totals = [s.splat(0.0); LANES];
    for (row, (&seen, total)) in seen.iter().zip(&mut totals).enumerate() {
        let mut sum = s.splat(0.0);
        let full = seen / LANES * LANES;
        // SAFETY: the caller's promise.
        unsafe {
            let scores = scores.add(row * ld);
            for i in (0..full).step_by(LANES) {
                let power = exp2_of_finite(s, s.load(scores.add(i)));
                s.store(scores.add(i), power);
                sum = s.add(sum, power);
            }
            if full < seen {
                let (x, nothing) = (s.load(scores.add(full)), s.splat(-160.0));
                let power = exp2_of_finite(s, s.select_lt(lanes, s.splat((seen - full) as f32), x, nothing));
                s.store(scores.add(full), power);
                sum = s.add(sum, power);
            }
            for i in (seen.next_multiple_of(LANES)..ld).step_by(LANES) {
                s.store(scores.add(i), s.splat(0.0));
            }
        }
        *total = sum;
    }
    sum_of_lanes(s, totals)
}

/// The sum of each vector's lanes, a lane for each vector.
#[inline(always)]
fn sum_of_lanes<S: Simd>(s: S, rows: [S::V; LANES]) -> S::V {
    let mut columns = s.transpose(rows);
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            columns[i] = s.add(columns[i], columns[i + half]);
        }
    }
    columns[0]
}

/// Overwrites scores from the first that is not seen with minus infinity, up to `end`.
///
/// # Safety
/// `scores` has room for `end` values.
#[inline(always)]
pub(super) unsafe fn hide(scores: *mut f32, seen: usize, end: usize) {
    for i in seen..end {
        // SAFETY: the caller's promise.
        unsafe { *scores.add(i) = f32::NEG_INFINITY };
    }
}
