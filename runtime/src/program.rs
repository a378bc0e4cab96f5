//! Running a compiled program: binding shapes, checking arguments, calling machine code on all threads. The one place
//! that calls compiled code. Knows entry points and the manifest, no model and no task.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::abi::{Context, DimsFn, EntryFn, MathTable, Table};
use crate::artifact::{Artifact, ArtifactError};
use crate::cache::{PagePool, PoolError};
use crate::kernels::{self, SharedScratch};
use crate::manifest::{ArgSize, CacheEntry, EntryPoint, Manifest, SequencesEntry};
use crate::profile::{KernelTime, Profile, kernel_starts};
use crate::states::{Arena, StateError, States};
use crate::tensor::{Tensor, View};
use crate::threads::{Pool, Team, barrier_wait};

/// Why a call cannot run.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No entry point of this name.
    #[error("no entry point `{name}`; the program has {}", known.join(", "))]
    NoEntry {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// The arguments are not those of the entry point.
    #[error("`{entry}`: {problem}")]
    Argument {
        /// The entry point.
        entry: String,
        /// Expected and found.
        problem: String,
    },
    /// The machine has not enough memory.
    #[error("`{entry}`: {bytes} bytes of memory for this call cannot be had")]
    Memory {
        /// The entry point.
        entry: String,
        /// Bytes needed.
        bytes: u64,
    },
}

/// The context of a call before a thread of a team makes it its own.
struct Call(Context);

// SAFETY: threads read the pointers only, as a shared reference to each of the buffers; how they write through them is
// the contract of `EntryFn`.
unsafe impl Sync for Call {}

impl Call {
    fn at(&self, team: &Team<'_>) -> Context {
        let profile = if team.thread == 0 { self.0.profile } else { std::ptr::null_mut() };
        Context { barrier: team.barrier, profile, ..self.0 }
    }
}

/// The dims table of one set of shapes.
type Dims = Arc<Vec<i64>>;

/// Dims tables kept; one is a few hundred bytes, and a service sees a few thousand shapes.
const CACHED_SHAPES: usize = 4096;

/// A loaded program.
pub struct Program {
    artifact: Artifact,
    pool: Pool,
    table: Table,
    shapes: Mutex<HashMap<Vec<i64>, Dims>>,
    arenas: Mutex<Vec<Arena>>,
    /// Held while compiled code runs, so calls take turns.
    states: Mutex<States>,
    scratch: SharedScratch,
    profile: Mutex<Option<Profile>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the mutexes guard is consistent at every point where a panic could happen.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Program {
    /// Opens an artifact or executable, to run on `threads` threads (0: as many as the machine has cores).
    ///
    /// # Errors
    /// As [`Artifact::open`].
    pub fn open(path: &Path, threads: usize) -> Result<Program, ArtifactError> {
        Program::new(Artifact::open(path)?, threads)
    }

    /// A program of an open artifact.
    ///
    /// # Errors
    /// When memory for its states cannot be had.
    pub fn new(artifact: Artifact, threads: usize) -> Result<Program, ArtifactError> {
        let states = States::new(&artifact)?;
        let table = Table {
            barrier_wait,
            kernel_starts,
            region: kernels::run_region,
            gemm_panels: kernels::gemm_panels,
            dot_f32: kernels::dot_f32,
            attention_packed: kernels::attention_packed,
            attention_grad: kernels::attention_grad,
            attention_paged: kernels::attention_paged,
            cache_append: kernels::cache_append,
            rope: kernels::rope,
            embed_panels: kernels::embed_panels,
            scatter_add: kernels::scatter_add,
            random_bits: kernels::random_bits,
            math: MathTable::default(),
        };
        Ok(Program {
            artifact,
            pool: Pool::new(threads),
            table,
            shapes: Mutex::default(),
            arenas: Mutex::default(),
            states: Mutex::new(states),
            scratch: SharedScratch::new(),
            profile: Mutex::default(),
        })
    }

    /// The artifact.
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// What the program says of itself.
    pub fn manifest(&self) -> &Manifest {
        self.artifact.manifest()
    }

    /// The bytes of a state that is not in pages, little-endian and row-major.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn read_state(&self, name: &str) -> Result<Vec<u8>, StateError> {
        lock(&self.states).bytes(&self.artifact, name).map(|bytes| bytes.to_vec())
    }

    /// Lets a state that is not in pages have these bytes, little-endian and row-major.
    ///
    /// # Errors
    /// When there is none of this name, or it has more or fewer bytes.
    pub fn write_state(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let mut states = lock(&self.states);
        let state = states.bytes(&self.artifact, name)?;
        if state.len() != bytes.len() {
            let (expected, found) = (state.len() as u64, bytes.len() as u64);
            return Err(StateError::Size { name: name.into(), expected, found });
        }
        state.copy_from_slice(bytes);
        Ok(())
    }

    /// Lets all states that are not in pages be what they begin with.
    ///
    /// # Errors
    /// As [`Program::new`]; states are then as they were.
    pub fn reset_states(&self) -> Result<(), ArtifactError> {
        *lock(&self.states) = States::new(&self.artifact)?;
        Ok(())
    }

    /// Threads that a call runs on.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Runs an entry point. Arguments by name, in any order; results in the entry point's order.
    ///
    /// # Errors
    /// When there is no such entry point, an argument is missing, unknown or of a wrong dtype or shape, memory is short,
    /// or the program needs a pool of pages.
    pub fn run(&self, entry: &str, args: &[(&str, View<'_>)]) -> Result<Vec<Tensor>, CallError> {
        if self.manifest().cache.is_some() {
            let problem = "the program keeps a paged cache and runs with a pool of pages only".into();
            return Err(CallError::Argument { entry: entry.into(), problem });
        }
        self.start(entry, args, None)
    }

    /// Runs an entry point of a program with a paged cache on the pages of a pool, which is of [`Program::page_pool`].
    ///
    /// # Errors
    /// As [`Program::run`]; and when the pool is not one for this program, or a sequence is said to have more tokens than
    /// its pages hold or pages that are not in the pool, or a page that is written is not one sequence's alone. Nothing
    /// has run then.
    pub fn run_cached(
        &self,
        entry: &str,
        args: &[(&str, View<'_>)],
        pool: &mut PagePool,
    ) -> Result<Vec<Tensor>, CallError> {
        self.start(entry, args, Some(pool))
    }

    /// A pool of so many pages for this program's cache, all zeros.
    ///
    /// # Errors
    /// When the program has no cache, or the system does not give the address space.
    pub fn page_pool(&self, pages: usize) -> Result<PagePool, PoolError> {
        let cache = self.manifest().cache.as_ref().ok_or(PoolError::NoCache)?;
        PagePool::new(pages, cache.page_bytes)
    }

    /// Starts to measure what each kernel takes, or ends it.
    pub fn set_profiling(&self, on: bool) {
        *lock(&self.profile) = on.then(|| Profile::new(self.manifest().kernels.len()));
    }

    /// What each kernel took since [`Program::set_profiling`] or the last call of this, in the order of the program;
    /// empty when nothing is measured.
    pub fn take_profile(&self) -> Vec<KernelTime> {
        let mut profile = lock(&self.profile);
        let kernels = &self.manifest().kernels;
        let Some(old) = profile.as_mut().map(|p| std::mem::replace(p, Profile::new(kernels.len()))) else {
            return Vec::new();
        };
        let time = |(kernel, (calls, nanoseconds)): (&crate::manifest::KernelEntry, (u64, u64))| KernelTime {
            name: kernel.name.clone(),
            kind: kernel.kind.clone(),
            calls,
            nanoseconds,
        };
        kernels.iter().zip(old.times).map(time).filter(|t| t.calls > 0).collect()
    }

    fn start(
        &self,
        entry: &str,
        args: &[(&str, View<'_>)],
        pool: Option<&mut PagePool>,
    ) -> Result<Vec<Tensor>, CallError> {
        let found = self.manifest().entry(entry).ok_or_else(|| CallError::NoEntry {
            name: entry.into(),
            known: self.manifest().entries.iter().map(|e| e.name.clone()).collect(),
        })?;
        let bad = |problem: String| CallError::Argument { entry: entry.into(), problem };
        let views = order_args(found, args).map_err(bad)?;
        let mut symbols = bind(self.manifest(), found, &views).map_err(bad)?;
        check_offsets(found, &views, &symbols).map_err(bad)?;
        if let Some(pool) = &pool {
            let cache = self.manifest().cache.as_ref();
            let cache = cache.filter(|c| c.page_bytes == pool.page_bytes());
            let cache = cache.ok_or_else(|| bad("the pool of pages is not one for this program".into()))?;
            symbols[cache.pages] = self.page_count(cache, pool).map_err(bad)?;
            for sequences in &found.sequences {
                check_pages(found, sequences, &views, cache, pool.pages()).map_err(bad)?;
            }
        }
        let dims = self.dims(found, symbols)?;
        self.call(found, &views, &dims, pool)
    }

    /// The value of the symbol that counts the pages.
    fn page_count(&self, cache: &CacheEntry, pool: &PagePool) -> Result<i64, String> {
        let (info, pages) = (&self.manifest().symbols[cache.pages], pool.pages() as i64);
        if pages < info.min || pages > info.max || pages % info.multiple_of != 0 {
            let (min, max, of) = (info.min, info.max, info.multiple_of);
            return Err(format!("a cache of {pages} pages, expected {min} to {max}, a multiple of {of}"));
        }
        Ok(pages)
    }

    /// Bytes of the arena that a call with arguments of these shapes needs.
    ///
    /// # Errors
    /// As [`Program::run`].
    pub fn arena_bytes(&self, entry: &str, args: &[(&str, View<'_>)]) -> Result<u64, CallError> {
        let bad = |problem: String| CallError::Argument { entry: entry.into(), problem };
        let found = self.manifest().entry(entry).ok_or_else(|| bad("no such entry point".into()))?;
        let symbols = order_args(found, args).and_then(|v| bind(self.manifest(), found, &v)).map_err(bad)?;
        Ok(self.dims(found, symbols)?[found.arena].max(0) as u64)
    }

    /// The dims table for these values of the symbols.
    fn dims(&self, entry: &EntryPoint, symbols: Vec<i64>) -> Result<Dims, CallError> {
        let mut shapes = lock(&self.shapes);
        if let Some(dims) = shapes.get(&symbols) {
            return Ok(dims.clone());
        }
        if shapes.len() >= CACHED_SHAPES {
            shapes.clear();
        }
        let mut dims = vec![0; self.manifest().dims];
        let code: *const u8 = &self.artifact.code()[self.manifest().dims_code as usize];
        // SAFETY: the text section holds a `DimsFn` at this offset, by its checksum as code generation wrote it; it reads
        // one value for each symbol and writes one for each entry of the table.
        let overflow = unsafe {
            let function: DimsFn = std::mem::transmute(code);
            function(symbols.as_ptr(), dims.as_mut_ptr())
        };
        if overflow != 0 {
            return Err(CallError::Memory { entry: entry.name.clone(), bytes: u64::MAX });
        }
        let dims = Arc::new(dims);
        shapes.insert(symbols, dims.clone());
        Ok(dims)
    }

    fn call(
        &self,
        entry: &EntryPoint,
        args: &[View<'_>],
        dims: &[i64],
        pool: Option<&mut PagePool>,
    ) -> Result<Vec<Tensor>, CallError> {
        let memory = |bytes: u64| CallError::Memory { entry: entry.name.clone(), bytes };
        let mut results = Vec::with_capacity(entry.results.len());
        for r in &entry.results {
            let shape: Vec<usize> = r.shape.iter().map(|&i| dims[i].max(0) as usize).collect();
            results.push(Tensor::zeros(r.dtype, shape).ok_or_else(|| memory(u64::MAX))?);
        }
        let mut arena = self.take_arena(dims[entry.arena].max(0) as u64).map_err(memory)?;
        let mut states = lock(&self.states);
        let arg_data: Vec<*const u8> = args.iter().map(|v| v.bytes.as_ptr()).collect();
        let result_data: Vec<*mut u8> = results.iter_mut().map(|t| t.bytes_mut().as_mut_ptr()).collect();
        let null = std::ptr::null_mut();
        let state_data = states.addresses();
        let mut profile = lock(&self.profile);
        let profile_data: *mut Profile = profile.as_mut().map_or(std::ptr::null_mut(), |p| p);
        let code: *const u8 = &self.artifact.code()[entry.code as usize];
        // SAFETY: the text section holds an `EntryFn` at this offset.
        let function: EntryFn = unsafe { std::mem::transmute(code) };
        let call = Call(Context {
            table: &self.table,
            barrier: std::ptr::null(),
            args: arg_data.as_ptr(),
            results: result_data.as_ptr(),
            weights: self.artifact.weights().as_ptr(),
            consts: self.artifact.consts().as_ptr(),
            states: state_data.as_ptr(),
            pages: pool.map_or(null, PagePool::base),
            scratch: &self.scratch,
            profile: profile_data,
            arena: arena.0.as_mut_ptr(),
            dims: dims.as_ptr(),
        });
        self.pool.run(|team| {
            let context = call.at(&team);
            // SAFETY: the arguments have the dtypes and shapes that the entry point was compiled for, offsets ascend
            // within the tokens, the pages of sequences are those of the pool, results and arena have the sizes that the
            // dims table tells, and all of them outlive the call. The code writes results, states, pages and arena only,
            // each byte by one thread between two barriers; the profile is the first thread's.
            unsafe { function(&context, team.thread as i64, team.threads as i64) }
        });
        if let Some(profile) = profile.as_mut() {
            profile.ends();
        }
        drop(profile);
        drop(states);
        lock(&self.arenas).push(arena);
        Ok(results)
    }

    /// An arena of at least this size: a kept one when it is large enough.
    fn take_arena(&self, bytes: u64) -> Result<Arena, u64> {
        let mut kept = lock(&self.arenas);
        if let Some(arena) = kept.pop()
            && arena.0.len() as u64 >= bytes
        {
            return Ok(arena);
        }
        drop(kept);
        usize::try_from(bytes).ok().and_then(Arena::new).ok_or(bytes)
    }
}

/// The views in the order of the entry point's arguments, dtype and rank checked.
fn order_args<'a>(entry: &EntryPoint, args: &[(&str, View<'a>)]) -> Result<Vec<View<'a>>, String> {
    if let Some((name, _)) = args.iter().find(|(n, _)| entry.args.iter().all(|a| a.name != *n)) {
        let known: Vec<&str> = entry.args.iter().map(|a| a.name.as_str()).collect();
        return Err(format!("no argument `{name}`; it takes {}", known.join(", ")));
    }
    let mut views = Vec::with_capacity(entry.args.len());
    for arg in &entry.args {
        let (_, view) =
            args.iter().find(|(n, _)| *n == arg.name).ok_or_else(|| format!("argument `{}` is missing", arg.name))?;
        let elements = view.shape.iter().try_fold(view.dtype.size(), |a, &d| a.checked_mul(d));
        if view.dtype != arg.dtype || view.shape.len() != arg.shape.len() || elements != Some(view.bytes.len()) {
            return Err(format!(
                "argument `{}` is {}{:?} in {} bytes, expected {} of {} axes",
                arg.name,
                view.dtype,
                view.shape,
                view.bytes.len(),
                arg.dtype,
                arg.shape.len()
            ));
        }
        views.push(*view);
    }
    Ok(views)
}

/// The values of all symbols, from the arguments' shapes.
fn bind(manifest: &Manifest, entry: &EntryPoint, views: &[View<'_>]) -> Result<Vec<i64>, String> {
    let mut values: Vec<Option<i64>> = vec![None; manifest.symbols.len()];
    for (arg, view) in entry.args.iter().zip(views) {
        for (axis, (size, &found)) in arg.shape.iter().zip(view.shape).enumerate() {
            let found =
                i64::try_from(found).map_err(|_| format!("argument `{}`: axis {axis} is too long", arg.name))?;
            match size {
                ArgSize::Constant(n) if i64::try_from(*n) == Ok(found) => {}
                ArgSize::Constant(n) => {
                    return Err(format!("argument `{}`: axis {axis} is {found}, expected {n}", arg.name));
                }
                ArgSize::Symbol { symbol, offset } => {
                    let (value, info) = (found - offset, &manifest.symbols[*symbol]);
                    if value < info.min || value > info.max || value % info.multiple_of != 0 {
                        return Err(format!(
                            "argument `{}`: axis {axis} makes `{}` {value}, expected {} to {}, a multiple of {}",
                            arg.name, info.name, info.min, info.max, info.multiple_of
                        ));
                    }
                    match values[*symbol].replace(value) {
                        Some(before) if before != value => {
                            return Err(format!(
                                "argument `{}`: axis {axis} makes `{}` {value}, another argument {before}",
                                arg.name, info.name
                            ));
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    Ok(values.into_iter().map(Option::unwrap_or_default).collect())
}

/// Compiled code relies on offsets that ascend from 0 to the count of tokens.
fn check_offsets(entry: &EntryPoint, views: &[View<'_>], symbols: &[i64]) -> Result<(), String> {
    for (arg, view) in entry.args.iter().zip(views) {
        let tokens = match arg.offsets_of {
            None => continue,
            Some(ArgSize::Constant(n)) => i64::try_from(n).unwrap_or(i64::MAX),
            Some(ArgSize::Symbol { symbol, offset }) => symbols[symbol].saturating_add(offset),
        };
        let values = view.bytes.chunks_exact(4).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
        let mut before = 0;
        for (i, v) in values.enumerate() {
            if v < before || (i == 0 && v != 0) {
                return Err(format!("argument `{}`: {v} after {before} at {i}; offsets ascend from 0", arg.name));
            }
            before = v;
        }
        if i64::from(before) != tokens {
            return Err(format!("argument `{}` ends at {before}, expected {tokens} tokens", arg.name));
        }
    }
    Ok(())
}

/// Compiled code relies on every page that it reads or writes being one of the pool, and on nobody else using a page
/// that a sequence writes.
fn check_pages(
    entry: &EntryPoint,
    sequences: &SequencesEntry,
    views: &[View<'_>],
    cache: &CacheEntry,
    pages: usize,
) -> Result<(), String> {
    let values = |arg: usize| views[arg].bytes.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_ne_bytes(*b)));
    let name = |arg: usize| entry.args[arg].name.as_str();
    let table = views[sequences.pages].shape.get(1).copied().unwrap_or(0);
    let count = views[sequences.past].shape.first().copied().unwrap_or(0);
    let rows = views[sequences.pages].shape.first().copied().unwrap_or(0);
    if views[sequences.offsets].shape.first() != Some(&(count + 1)) || rows != count {
        let (offsets, past, pages) = (name(sequences.offsets), name(sequences.past), name(sequences.pages));
        return Err(format!("arguments `{offsets}`, `{past}` and `{pages}` tell of different numbers of sequences"));
    }
    let new = values(sequences.offsets).zip(values(sequences.offsets).skip(1)).map(|(start, end)| end - start);
    let page_tokens = cache.page_tokens as i64;
    // Every page that is used: its number, and whether it is written.
    let mut used: Vec<(i64, bool)> = Vec::new();
    let mut numbers = values(sequences.pages);
    for (s, (past, new)) in values(sequences.past).zip(new).enumerate() {
        if past < 0 {
            return Err(format!("argument `{}`: {past} tokens before those of sequence {s}", name(sequences.past)));
        }
        let needed = (past + new + page_tokens - 1) / page_tokens;
        if needed > table as i64 {
            let tokens = past + new;
            return Err(format!(
                "argument `{}`: sequence {s} has {table} pages, {tokens} tokens need {needed}",
                name(sequences.pages)
            ));
        }
        for (i, page) in numbers.by_ref().take(table).enumerate() {
            if i as i64 >= needed {
                continue;
            }
            if !(0..pages as i64).contains(&page) {
                let (arg, last) = (name(sequences.pages), pages as i64 - 1);
                return Err(format!("argument `{arg}`: page {page} of sequence {s}; the cache has 0 to {last}"));
            }
            used.push((page, new > 0 && i as i64 >= past / page_tokens));
        }
    }
    used.sort_unstable();
    let shared = used.windows(2).find(|two| two[0].0 == two[1].0 && (two[0].1 || two[1].1));
    match shared {
        Some(two) => Err(format!("argument `{}`: page {} is written and used twice", name(sequences.pages), two[0].0)),
        None => Ok(()),
    }
}
