//! What a program says of its machine before anything computes on CUDA.

use std::path::PathBuf;

/// Names cuBLASLt's file.
pub(super) const LIBRARY: &str = "QPIPE_CUBLASLT";

/// Where things are that CUDA needs and keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CudaSettings {
    /// Where compiled kernels are kept, for the next process of this very program; `None`: nowhere. Files there may be
    /// deleted at any time.
    pub kernels: Option<PathBuf>,
    /// cuBLASLt's file; without it, it is looked for.
    pub cublaslt: Option<PathBuf>,
    /// NVIDIA's toolkit, if not in `/usr/local/cuda`.
    pub toolkit: Option<PathBuf>,
    /// Environments of Python, whose packages have cuBLASLt too.
    pub python: Vec<PathBuf>,
}

impl CudaSettings {
    /// By variables, which `variable` looks up.
    ///
    /// | variable | says |
    /// |---|---|
    /// | `QPIPE_KERNELS` | the folder of compiled kernels; without it `qpipe/kernels` in `XDG_CACHE_HOME`, or else in `HOME`'s `.cache` |
    /// | `QPIPE_CUBLASLT` | cuBLASLt's file |
    /// | `CUDA_PATH` | NVIDIA's toolkit |
    /// | `VIRTUAL_ENV`, `CONDA_PREFIX` | environments of Python |
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let caches = || path("XDG_CACHE_HOME").or_else(|| path("HOME").map(|home| home.join(".cache")));
        Self {
            kernels: path("QPIPE_KERNELS").or_else(|| caches().map(|caches| caches.join("qpipe/kernels"))),
            cublaslt: path(LIBRARY),
            toolkit: path("CUDA_PATH"),
            python: ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(path).collect(),
        }
    }

    /// Makes them those of the process. Once something has computed it is too late.
    pub fn apply(self) {
        #[cfg(feature = "cuda")]
        {
            qpipe_kernels::set_up(self.kernels.as_deref());
            let Self { cublaslt: file, toolkit, python: prefixes, .. } = self;
            qpipe_kernels::search_cublaslt(qpipe_kernels::Search { file, toolkit, prefixes });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_kept_in_the_users_caches() {
        let from = |variables: &[(&str, &str)]| {
            CudaSettings::from_variables(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(from(&[]), CudaSettings::default());
        let kernels = |variables: &[(&str, &str)]| from(variables).kernels.unwrap();
        assert_eq!(kernels(&[("HOME", "/h")]), PathBuf::from("/h/.cache/qpipe/kernels"));
        assert_eq!(kernels(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), PathBuf::from("/x/qpipe/kernels"));
        assert_eq!(kernels(&[("HOME", "/h"), ("QPIPE_KERNELS", "/k")]), PathBuf::from("/k"));
        let named = from(&[("QPIPE_CUBLASLT", "/l.so"), ("CUDA_PATH", ""), ("VIRTUAL_ENV", "/v")]);
        assert_eq!(
            (named.cublaslt, named.toolkit, named.python),
            (Some("/l.so".into()), None, vec!["/v".into()])
        );
    }
}
