//! `qpipe devices`: what stages can compute on, which of it `auto` takes, and why there is no CUDA device.

use qpipe_engine::record::Environment;
use qpipe_stages::cuda::{self, CublasLt, Cuda, CudaAbsence};
use qpipe_stages::device::ComputeDevice;
use serde_json::{Value, json};

use crate::error::CliError;
use crate::exit::Exit;
use crate::machine;
use crate::printer::Printer;

/// The version of the JSON form.
const SCHEMA: u32 = 1;

/// What hides GPUs from a process.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

pub(super) fn devices(json: bool, printer: &mut Printer) -> Result<Exit, CliError> {
    let found = Found {
        cpu: Environment::probe(),
        memory: machine::memory(),
        cuda: cuda::describe(),
        auto: ComputeDevice::auto(),
        visible: std::env::var(VISIBLE).ok(),
    };
    if json {
        printer.data(&serde_json::to_string_pretty(&found.json())?);
    } else {
        printer.columns(&found.rows());
        found.remarks().iter().for_each(|line| printer.data(line));
    }
    Ok(Exit::Ok)
}

/// What there is.
struct Found {
    cpu: Environment,
    /// Host memory that this process may use.
    memory: Option<u64>,
    cuda: Result<Cuda, CudaAbsence>,
    auto: ComputeDevice,
    /// The value of `CUDA_VISIBLE_DEVICES`.
    visible: Option<String>,
}

impl Found {
    fn rows(&self) -> Vec<Vec<String>> {
        let header = ["device", "auto", "name", "memory", "free", "capability"];
        let cpu = [self.cpu_name(), gib(self.memory), unknown(), unknown()];
        let mut rows = vec![header.map(str::to_owned).to_vec(), self.row(ComputeDevice::Cpu, cpu)];
        for (index, device) in self.cuda.iter().flat_map(|cuda| &cuda.devices).enumerate() {
            let (memory, free) = (gib(Some(device.memory)), gib(device.free));
            let texts = [device.name.clone(), memory, free, version(device.capability)];
            rows.push(self.row(ComputeDevice::Cuda(index), texts));
        }
        rows
    }

    fn row(&self, device: ComputeDevice, texts: [String; 4]) -> Vec<String> {
        let auto = if device == self.auto { "*" } else { "" };
        [device.to_string(), auto.into()].into_iter().chain(texts).collect()
    }

    fn cpu_name(&self) -> String {
        let model = self.cpu.cpu.as_deref().unwrap_or(&self.cpu.arch);
        self.cpu.cores.map_or_else(|| model.to_owned(), |cores| format!("{model}, {cores} cores"))
    }

    /// What belongs to no single device.
    fn remarks(&self) -> Vec<String> {
        let mut lines = vec![match &self.cuda {
            Ok(cuda) => format!("the NVIDIA driver knows CUDA {}", version(cuda.version)),
            Err(why) => format!("no CUDA device: {why}"),
        }];
        lines.extend(self.cuda.iter().map(|cuda| match &cuda.cublaslt {
            Ok(CublasLt { version, path }) => {
                format!("products of many rows: cuBLASLt {version} ({})", path.display())
            }
            Err(why) => format!("products of many rows: burn's kernels, some three times slower; {why}"),
        }));
        // a program without CUDA sees none, whatever the variable says
        let visible = self.visible.as_ref().filter(|_| self.cuda != Err(CudaAbsence::NotBuilt));
        lines.extend(visible.map(|ordinals| format!("{VISIBLE} is `{ordinals}`: other GPUs do not count")));
        lines
    }

    fn json(&self) -> Value {
        let cuda = match &self.cuda {
            Ok(cuda) => json!({
                "version": version(cuda.version),
                "cublaslt": match &cuda.cublaslt {
                    Ok(CublasLt { version, path }) => json!({ "version": version, "path": path }),
                    Err(why) => json!({ "absence": why }),
                },
                "devices": cuda.devices.iter().enumerate().map(|(index, device)| json!({
                    "device": ComputeDevice::Cuda(index).to_string(),
                    "name": device.name,
                    "memory_bytes": device.memory,
                    "free_bytes": device.free,
                    "capability": version(device.capability),
                })).collect::<Vec<_>>(),
            }),
            Err(why) => json!({ "devices": [], "absence": why, "message": why.to_string() }),
        };
        let Environment { cpu, cores, .. } = &self.cpu;
        json!({
            "schema": SCHEMA,
            "auto": self.auto.to_string(),
            "cpu": { "name": cpu, "cores": cores, "memory_bytes": self.memory },
            "cuda": cuda,
            "visible": self.visible,
        })
    }
}

fn unknown() -> String {
    "–".into()
}

fn gib(bytes: Option<u64>) -> String {
    bytes.map_or_else(unknown, |bytes| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)))
}

fn version((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

#[cfg(test)]
mod tests {
    use qpipe_stages::cuda::CudaDevice;

    use super::*;

    fn found(cuda: Result<Cuda, CudaAbsence>, auto: ComputeDevice) -> Found {
        Found { cpu: Environment::probe(), memory: Some(3 << 29), cuda, auto, visible: Some("0".into()) }
    }

    #[test]
    fn a_gpu_is_shown_with_what_is_free_of_it() {
        let device = CudaDevice {
            name: "NVIDIA H100".into(),
            memory: 80 << 30,
            free: Some(79 << 30),
            capability: (9, 0),
        };
        let shut = CudaDevice { free: None, ..device.clone() };
        let cublaslt = Ok(CublasLt { version: "13.1.0".into(), path: "libcublasLt.so.13".into() });
        let cuda = Cuda { version: (13, 1), devices: vec![device, shut], cublaslt };
        let found = found(Ok(cuda), ComputeDevice::Cuda(0));
        let rows = found.rows();
        assert_eq!(rows[1][3..], ["1.5 GiB", "–", "–"]);
        assert_eq!(rows[2], ["cuda:0", "*", "NVIDIA H100", "80.0 GiB", "79.0 GiB", "9.0"]);
        assert_eq!(rows[3], ["cuda:1", "", "NVIDIA H100", "80.0 GiB", "–", "9.0"]);
        let remarks = found.remarks();
        assert_eq!(remarks[0], "the NVIDIA driver knows CUDA 13.1");
        assert_eq!(remarks[1], "products of many rows: cuBLASLt 13.1.0 (libcublasLt.so.13)");
        assert!(remarks[2].starts_with("CUDA_VISIBLE_DEVICES is `0`"));
        let json = found.json();
        assert_eq!((&json["auto"], &json["cuda"]["version"]), (&json!("cuda:0"), &json!("13.1")));
        assert_eq!(json["cuda"]["devices"][1]["free_bytes"], Value::Null);
        assert_eq!(json["cuda"]["cublaslt"]["version"], json!("13.1.0"));
    }

    #[test]
    fn where_there_is_none_the_reason_is_told() {
        let error = || "CUDA_ERROR_NO_DEVICE".to_owned();
        let found = found(Err(CudaAbsence::NoDevice { error: error() }), ComputeDevice::Cpu);
        assert_eq!((found.rows().len(), found.rows()[1][1].as_str()), (2, "*"));
        assert!(found.remarks()[0].contains("CUDA_ERROR_NO_DEVICE"));
        let absence = json!({ "reason": "no-device", "error": error() });
        assert_eq!(found.json()["cuda"]["absence"], absence);
    }
}
