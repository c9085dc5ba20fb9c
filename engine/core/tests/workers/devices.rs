//! A plugin with a parameter `device` has the GPU that it is given, as a built-in stage has.

use qpipe_engine::run::RunOptions;
use qpipe_engine::worker::Limits;
use qpipe_sdk::{GpuNeed, Params, Value};

use crate::hows::hows;
use crate::lab::Lab;

const PLUGIN: &str = r#"
import time
from dataclasses import dataclass
from typing import Literal

import qpipe_stage as qpipe


@dataclass
class Params:
    number: int = qpipe.param("a number", default=0)
    DEVICE


@qpipe.stage("gpu", outputs={"on": "the device"})
def gpu(job: qpipe.Job, params: Params):
    """Says where it is."""
    began = time.time()
    time.sleep(0.3)
    job.output("on").write_text(f"{job.device} {began} {time.time()}")


qpipe.main()
"#;

/// Where each of some jobs was, and whether any two were at work at once.
fn ran(device: &str, jobs: &[&str], gpus: &[usize]) -> Option<(Vec<String>, bool)> {
    let lab = Lab::new("ran")?;
    lab.file("gpu.py", &PLUGIN.replace("DEVICE", device));
    let registry = lab.start(&lab.command("gpu", "gpu.py", &[], Limits::default())).unwrap();
    let stage = |(at, words): (usize, &&str)| format!("gpu s{at} {{\n number {at}\n {words}\n}}\n");
    let stages: String = jobs.iter().enumerate().map(stage).collect();
    let options = RunOptions { jobs: 4.try_into().unwrap(), gpus: gpus.to_vec(), ..RunOptions::default() };
    let (result, _) = lab.run_with(&registry, &stages, &options);
    assert_eq!(hows(&result.nodes), "r".repeat(jobs.len()));
    let said: Vec<String> = result.nodes.iter().map(|node| lab.output(node, "on")).collect();
    let words = said.iter().map(|text| text.split(' ').map(str::to_owned).collect::<Vec<_>>());
    let jobs: Vec<(String, f64, f64)> =
        words.map(|words| (words[0].clone(), words[1].parse().unwrap(), words[2].parse().unwrap())).collect();
    let meet = |a: usize, b: usize| a < b && jobs[a].1 < jobs[b].2 && jobs[b].1 < jobs[a].2;
    let met = (0..jobs.len()).any(|a| (0..jobs.len()).any(|b| meet(a, b)));
    Some((jobs.into_iter().map(|job| job.0).collect(), met))
}

const DEVICE: &str = r#"device: str = qpipe.param("a device", default="auto", in_key=False)"#;

#[test]
fn a_plugin_with_a_device_takes_a_gpu_and_is_told_which() {
    let Some((on, met)) = ran(DEVICE, &["", "device auto"], &[1]) else { return };
    assert_eq!((on, met), (vec!["cuda:1".to_owned(); 2], false), "one GPU, so one after the other");
    let (on, _) =
        ran(DEVICE, &["device cuda", "device \"cuda:1\"", "device cpu", "device odd"], &[0, 1]).unwrap();
    assert_eq!(on, ["cuda:0", "cuda:1", "cpu", "auto"]);
    assert_eq!(ran(DEVICE, &["", "device \"cuda:3\""], &[]).unwrap().0, ["auto", "cuda:3"], "there is none");
}

#[test]
fn a_plugin_without_a_device_takes_none() {
    let Some((on, _)) = ran("", &["", ""], &[0]) else { return };
    assert_eq!(on, ["auto"; 2]);
    let other = r#"device: int = qpipe.param("a number", default=1)"#;
    assert_eq!(ran(other, &["", "device 0"], &[0]).unwrap().0, ["auto"; 2]);
}

#[test]
fn a_default_device_counts_where_none_is_given() {
    let Some(lab) = Lab::new("a_default_device_counts_where_none_is_given") else { return };
    let words = r#"device: Literal["cpu", "cuda"] = qpipe.param("a device", default="cpu")"#;
    lab.file("gpu.py", &PLUGIN.replace("DEVICE", words));
    let registry = lab.start(&lab.command("gpu", "gpu.py", &[], Limits::default())).unwrap();
    let need = |params: &Params| registry.get("gpu").unwrap().resources(params, 0).gpu;
    assert_eq!(need(&Params::default()), GpuNeed::None);
    let mut params = Params::default();
    params.set("device", Value::Text("cuda".into()));
    assert_eq!(need(&params), GpuNeed::Ordinal(0));
}
