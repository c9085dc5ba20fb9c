//! What a stage needs while it runs, besides time: the scheduler's side of a stage.

/// What a running stage holds. The default asks for one job slot and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub gpu: GpuNeed,
    /// Host memory at its peak, bytes; `0` where it is too little to count.
    pub memory: u64,
    /// Nothing else may run meanwhile: what measures time must not share the machine.
    pub exclusive: bool,
}

/// Which GPU a stage runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuNeed {
    /// None: it takes a job slot.
    #[default]
    None,
    /// Any one that is free; without GPUs it runs on the CPU and takes a job slot.
    Any,
    /// This very one.
    Ordinal(usize),
}

impl GpuNeed {
    /// What a `device` of `auto | cpu | cuda | cuda:N` asks for. Other names ask for nothing: to refuse them is the
    /// stage's part, which knows why.
    pub fn of_device(name: &str) -> Self {
        match name {
            "auto" => Self::Any,
            "cuda" => Self::Ordinal(0),
            _ => name.strip_prefix("cuda:").and_then(|n| n.parse().ok()).map_or(Self::None, Self::Ordinal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_ask_for_gpus() {
        let asked = ["auto", "cpu", "cuda", "cuda:3", "cuda:x"].map(GpuNeed::of_device);
        let [any, cpu, first, fourth, nonsense] = asked;
        assert_eq!((any, cpu, first), (GpuNeed::Any, GpuNeed::None, GpuNeed::Ordinal(0)));
        assert_eq!((fourth, nonsense), (GpuNeed::Ordinal(3), GpuNeed::None));
    }
}
