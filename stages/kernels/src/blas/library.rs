//! cuBLASLt, found when it is first needed: its functions, with what they are called with. Nothing is linked, so a binary
//! runs without it.
#![allow(
    unsafe_code,
    reason = "a C library; the signatures are those of cublasLt.h, the same from CUDA 11.4 to 13"
)]

use std::ffi::{c_int, c_void};
use std::path::PathBuf;
use std::sync::OnceLock;

use libloading::Library;

/// Where cuBLASLt may be, besides where the loader looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// Its file; then it is looked for nowhere else.
    pub file: Option<PathBuf>,
    /// NVIDIA's toolkit, if not in `/usr/local/cuda`.
    pub toolkit: Option<PathBuf>,
    /// Folders whose `lib` holds Python's packages, besides `/usr/local` and `/usr`.
    pub prefixes: Vec<PathBuf>,
}

static SEARCH: OnceLock<Search> = OnceLock::new();

/// Says where to look, before the library is first asked for; whether that was in time.
pub fn search_cublaslt(search: Search) -> bool {
    SEARCH.set(search).is_ok()
}

/// Why there is no cuBLASLt, or what it refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlasError {
    #[error("no cuBLASLt: {0}")]
    Absent(String),
    #[error("{function} gave status {status}")]
    Status { function: &'static str, status: c_int },
    #[error("cuBLASLt has no product for {0}")]
    NoAlgorithm(String),
    #[error("the device's server: {0}")]
    Server(String),
}

type Status = c_int;
/// An object of the library's.
pub(super) type Object = *mut c_void;
pub(super) type Create = unsafe extern "C" fn(*mut Object) -> Status;
type CreateDescription = unsafe extern "C" fn(*mut Object, c_int, c_int) -> Status;
type CreateLayout = unsafe extern "C" fn(*mut Object, c_int, u64, u64, i64) -> Status;
type SetAttribute = unsafe extern "C" fn(Object, c_int, *const c_void, usize) -> Status;
type Heuristic = unsafe extern "C" fn(
    Object,
    Object,
    Object,
    Object,
    Object,
    Object,
    Object,
    c_int,
    *mut Found,
    *mut c_int,
) -> Status;
type Matmul = unsafe extern "C" fn(
    Object,
    Object,
    *const c_void,
    u64,
    Object,
    u64,
    Object,
    *const c_void,
    u64,
    Object,
    u64,
    Object,
    *const Algorithm,
    u64,
    usize,
    *mut c_void,
) -> Status;

/// `cublasLtMatmulAlgo_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Algorithm([u64; 8]);

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) algorithm: Algorithm,
    pub(super) workspace: usize,
    pub(super) state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

impl Found {
    pub(super) const NOTHING: Self =
        Self { algorithm: Algorithm([0; 8]), workspace: 0, state: 0, waves: 0.0, reserved: [0; 4] };
}

/// The functions in use.
pub(super) struct CublasLt {
    pub(super) create: Create,
    pub(super) create_description: CreateDescription,
    pub(super) describe: SetAttribute,
    pub(super) create_layout: CreateLayout,
    pub(super) lay_out: SetAttribute,
    pub(super) create_preference: Create,
    pub(super) prefer: SetAttribute,
    pub(super) heuristic: Heuristic,
    pub(super) matmul: Matmul,
    version: usize,
    path: PathBuf,
    _library: Library,
}

impl CublasLt {
    /// The library, looked for once in a process.
    pub(super) fn get() -> Result<&'static Self, BlasError> {
        static LIBRARY: OnceLock<Result<CublasLt, BlasError>> = OnceLock::new();
        LIBRARY.get_or_init(Self::find).as_ref().map_err(Clone::clone)
    }

    fn find() -> Result<Self, BlasError> {
        let search = SEARCH.get_or_init(Search::default);
        if let Some(path) = &search.file {
            return Self::open(path.clone());
        }
        let mut reason = String::from("no file of its name was found");
        for path in search.candidates() {
            match Self::open(path) {
                Ok(library) => return Ok(library),
                Err(BlasError::Absent(why)) if !why.contains("cannot open shared object file") => {
                    reason = why;
                }
                Err(_) => {}
            }
        }
        Err(BlasError::Absent(reason))
    }

    fn open(path: PathBuf) -> Result<Self, BlasError> {
        let absent = |error: libloading::Error| BlasError::Absent(error.to_string());
        // SAFETY: loading NVIDIA's library runs its initializers, which ask nothing of the process; the types are those of
        // its header
        unsafe {
            let library = Library::new(&path).map_err(absent)?;
            let version: unsafe extern "C" fn() -> usize =
                *library.get(b"cublasLtGetVersion\0").map_err(absent)?;
            Ok(Self {
                create: *library.get(b"cublasLtCreate\0").map_err(absent)?,
                create_description: *library.get(b"cublasLtMatmulDescCreate\0").map_err(absent)?,
                describe: *library.get(b"cublasLtMatmulDescSetAttribute\0").map_err(absent)?,
                create_layout: *library.get(b"cublasLtMatrixLayoutCreate\0").map_err(absent)?,
                lay_out: *library.get(b"cublasLtMatrixLayoutSetAttribute\0").map_err(absent)?,
                create_preference: *library.get(b"cublasLtMatmulPreferenceCreate\0").map_err(absent)?,
                prefer: *library.get(b"cublasLtMatmulPreferenceSetAttribute\0").map_err(absent)?,
                heuristic: *library.get(b"cublasLtMatmulAlgoGetHeuristic\0").map_err(absent)?,
                matmul: *library.get(b"cublasLtMatmul\0").map_err(absent)?,
                version: version(),
                path,
                _library: library,
            })
        }
    }

    /// As people write it, such as 13.1.0.
    pub(super) fn version(&self) -> String {
        let version = self.version;
        // from 12 on 10000·major + 100·minor + patch, as in 120_304; 11 had thousands
        if version >= 100_000 {
            format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
        } else {
            format!("{}.{}.{}", version / 1000, version / 100 % 10, version % 100)
        }
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.path
    }
}

impl Search {
    /// Names that the loader resolves itself, then where toolkits and Python's packages of it lie.
    fn candidates(&self) -> Vec<PathBuf> {
        const NAMES: [&str; 4] =
            ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11", "libcublasLt.so"];
        let toolkit = self.toolkit.clone().unwrap_or_else(|| PathBuf::from("/usr/local/cuda"));
        let mut folders = vec![toolkit.join("lib64"), toolkit.join("targets/x86_64-linux/lib")];
        for prefix in self.prefixes.iter().cloned().chain(["/usr/local", "/usr"].map(PathBuf::from)) {
            folders.push(prefix.join("lib"));
            for python in below(&prefix.join("lib"), "python3") {
                for packages in ["site-packages", "dist-packages"].map(|name| python.join(name)) {
                    for library in ["cu13/lib", "cublas/lib"] {
                        folders.push(packages.join("nvidia").join(library));
                    }
                }
            }
        }
        let by_loader = NAMES.iter().map(PathBuf::from);
        let by_folder = folders.iter().flat_map(|folder| NAMES.iter().map(move |name| folder.join(name)));
        by_loader.chain(by_folder.filter(|path| path.exists())).collect()
    }
}

fn below(folder: &std::path::Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .collect();
    found.sort();
    found
}
