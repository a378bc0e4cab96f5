//! Sizes of the CPU's caches, by which kernels are blocked. Knows no kernel.

use std::sync::OnceLock;

/// Where the CPU does not tell: what most have at least.
const SECOND: usize = 512 << 10;

/// Bytes of the second-level cache of a core.
pub(crate) fn second_cache() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| level(2).unwrap_or(SECOND))
}

/// Bytes of the data cache of a level, as CPUID tells: Intel in leaf 4, AMD in leaf 8000_001D, in one form.
#[cfg(target_arch = "x86_64")]
fn level(level: u32) -> Option<usize> {
    use std::arch::x86_64::__cpuid_count;
    let highest = __cpuid_count(0, 0).eax;
    let extended = __cpuid_count(0x8000_0000, 0).eax;
    let leaves = [(0x8000_001D, extended), (4, highest)].into_iter().filter(|&(leaf, highest)| leaf <= highest);
    for (leaf, _) in leaves {
        for index in 0..8 {
            let cache = __cpuid_count(leaf, index);
            let (kind, at) = (cache.eax & 31, cache.eax >> 5 & 7);
            // Data or unified.
            if at == level && (kind == 1 || kind == 3) {
                let part = |low: u32, bits: u32| (cache.ebx >> low & ((1 << bits) - 1)) as usize + 1;
                return Some(part(22, 10) * part(12, 10) * part(0, 12) * (cache.ecx as usize + 1));
            }
        }
    }
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn level(_: u32) -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_second_cache_is_of_a_size_that_caches_have() {
        assert!((64 << 10..=64 << 20).contains(&super::second_cache()), "{}", super::second_cache());
    }
}
