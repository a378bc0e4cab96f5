//! The key/value cache: one pool of equal pages, which the program's paged states share. Knows pages and bytes only: what
//! lies where within a page is compiled code's matter, which page is whose is the caller's.
#![allow(unsafe_code, reason = "an anonymous map that compiled code writes, and memory given back to the system")]

use std::io;

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// More pages than compiled code can number.
    #[error("a cache of {pages} pages: at most {} are possible", i32::MAX)]
    Pages {
        /// Pages asked for.
        pages: usize,
    },
    /// The system does not give so much address space.
    #[error("{bytes} bytes of memory for a cache of {pages} pages cannot be had: {source}")]
    Memory {
        /// Bytes asked for.
        bytes: u128,
        /// Pages asked for.
        pages: usize,
        /// The cause.
        source: io::Error,
    },
    /// The program keeps no paged state.
    #[error("the program has no paged cache")]
    NoCache,
}

/// Pages of memory, all zeros at first. The system gives memory when a page is first written, so a pool may be larger
/// than what is ever used of it.
#[derive(Debug)]
pub struct PagePool {
    map: MmapMut,
    pages: usize,
    page_bytes: usize,
}

impl PagePool {
    /// `pages` pages of `page_bytes` bytes.
    ///
    /// # Errors
    /// When the system does not give the address space.
    pub fn new(pages: usize, page_bytes: usize) -> Result<PagePool, PoolError> {
        if i32::try_from(pages).is_err() {
            return Err(PoolError::Pages { pages });
        }
        let memory = |source| PoolError::Memory { bytes: pages as u128 * page_bytes as u128, pages, source };
        let bytes = pages.checked_mul(page_bytes).filter(|&b| isize::try_from(b).is_ok());
        let bytes = bytes.ok_or_else(|| memory(io::ErrorKind::OutOfMemory.into()))?;
        // An empty map is refused by the system, an empty pool is none to refuse.
        let map = MmapOptions::new().len(bytes.max(1)).no_reserve_swap().map_anon().map_err(memory)?;
        // Keys of one head lie far apart from layer to layer: fewer, larger pages of the system's cost fewer misses when
        // addresses are looked up. A system that has none is none the worse.
        #[cfg(target_os = "linux")]
        let _ = map.advise(Advice::HugePage);
        Ok(PagePool { map, pages, page_bytes })
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Where a page starts.
    ///
    /// # Panics
    /// When there is no such page.
    fn start(&self, page: u32) -> usize {
        assert!((page as usize) < self.pages, "page {page} of a cache of {} pages", self.pages);
        page as usize * self.page_bytes
    }

    /// Copies page `from` over page `to`.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        let (from, to) = (self.start(from), self.start(to));
        self.map.copy_within(from..from + self.page_bytes, to);
    }

    /// Gives the memory of a page that is not needed any more back to the system; what the page then holds is arbitrary.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn release(&mut self, page: u32) {
        // Neighbours may share the first and the last page of the system's: those stay.
        let start = self.start(page);
        let (first, last) =
            (start.next_multiple_of(SYSTEM_PAGE), (start + self.page_bytes) / SYSTEM_PAGE * SYSTEM_PAGE);
        if first < last {
            // SAFETY: the range lies in the map, which starts at a page of the system's and is private and anonymous, so
            // that the bytes read as zeros afterwards; nobody borrows them, for the pool is borrowed mutably. Where the
            // system refuses, the memory stays.
            let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, first, last - first) };
        }
    }

    /// The first page, for compiled code.
    pub(crate) fn base(&mut self) -> *mut u8 {
        self.map.as_mut_ptr()
    }
}

/// A multiple of the page size of every system that Lith runs on.
const SYSTEM_PAGE: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zeros_are_copied_and_given_back() {
        let bytes = 3 * SYSTEM_PAGE + 192;
        let mut pool = PagePool::new(5, bytes).unwrap();
        assert!(pool.map.iter().all(|&b| b == 0));
        for page in 0..5 {
            let start = pool.start(page);
            pool.map[start..start + bytes].fill(page as u8 + 1);
        }
        pool.copy_page(1, 3);
        pool.release(2);
        for (page, value) in [(0, 1), (1, 2), (3, 2), (4, 5)] {
            let start = pool.start(page);
            assert!(pool.map[start..start + bytes].iter().all(|&b| b == value), "page {page}");
        }
        let start = pool.start(2);
        assert!(pool.map[start..start + bytes].iter().filter(|&&b| b == 0).count() >= SYSTEM_PAGE);
    }

    #[test]
    fn a_pool_larger_than_memory_is_no_problem_until_it_is_used() {
        let pool = PagePool::new(1 << 20, 1 << 20).unwrap();
        assert_eq!((pool.pages(), pool.page_bytes()), (1 << 20, 1 << 20));
        PagePool::new(0, 1 << 20).unwrap();
    }

    #[test]
    fn what_cannot_be_had_is_an_error_that_names_the_bytes() {
        let error = PagePool::new(1 << 30, 1 << 40).unwrap_err();
        assert!(matches!(error, PoolError::Memory { .. }), "{error}");
        assert!(error.to_string().contains(&(1u128 << 70).to_string()), "{error}");
        assert!(matches!(PagePool::new(1 << 40, 1), Err(PoolError::Pages { .. })));
    }

    #[test]
    #[should_panic(expected = "page 2 of a cache of 2 pages")]
    fn there_is_no_page_past_the_last() {
        PagePool::new(2, 64).unwrap().copy_page(0, 2);
    }
}
