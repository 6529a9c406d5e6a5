//! `medseg info --devices`: what networks can run on.

use crate::context::{Context, print_json, print_text};
use crate::outcome::Outcome;
use medseg::nn::Isa;
use medseg::nn::cuda::{Found, Survey};
use serde::Serialize;

/// Everything there is.
#[derive(Serialize)]
struct Devices {
    /// Highest CUDA version of the driver.
    driver: Option<String>,
    driver_problem: Option<String>,
    cudnn: Option<String>,
    cudnn_problem: Option<String>,
    devices: Vec<Device>,
}

/// Something that a network can run on.
#[derive(Serialize)]
struct Device {
    /// As `--device` takes it.
    device: String,
    name: String,
    compute_capability: Option<String>,
    memory_bytes: u64,
    free_bytes: Option<u64>,
    usable: bool,
    problem: Option<String>,
}

/// Lists them.
pub fn run(is_json: bool, cx: &Context) -> anyhow::Result<Outcome> {
    let survey = Survey::new();
    let mut devices = vec![processor(cx)];
    devices.extend(survey.devices.into_iter().enumerate().map(gpu));
    let (driver, driver_problem) = told(survey.driver.map(|version| dotted(&version)));
    let (cudnn, cudnn_problem) = told(survey.dnn.map(|version| dotted(&version)));
    let all = Devices {
        driver,
        driver_problem,
        cudnn,
        cudnn_problem,
        devices,
    };
    if is_json {
        print_json(&all)?;
    } else {
        print_text(&all.lines())?;
    }
    Ok(Outcome::Done)
}

fn processor(cx: &Context) -> Device {
    Device {
        device: "cpu".to_owned(),
        name: format!("{}, {} threads", Isa::detect().name(), cx.threads),
        compute_capability: None,
        memory_bytes: cx.limits.memory_bytes,
        free_bytes: None,
        usable: true,
        problem: None,
    }
}

fn gpu((number, found): (usize, Found)) -> Device {
    Device {
        device: format!("cuda:{number}"),
        name: found.name,
        compute_capability: Some(dotted(&found.capability)),
        memory_bytes: found.memory as u64,
        free_bytes: found.free.map(|bytes| bytes as u64),
        usable: found.problem.is_none(),
        problem: found.problem.map(|problem| problem.to_string()),
    }
}

impl Devices {
    /// For people, a line each.
    fn lines(&self) -> String {
        let mut text = String::new();
        for device in &self.devices {
            let state = match (&device.problem, device.free_bytes) {
                (Some(problem), _) => format!("cannot be used: {problem}"),
                (None, Some(free)) => format!("usable, {:.1} GiB free", gib(free)),
                (None, None) => "usable".to_owned(),
            };
            let (name, memory) = (&device.name, gib(device.memory_bytes));
            text.push_str(&format!(
                "{}: {name}, {memory:.1} GiB, {state}\n",
                device.device
            ));
        }
        let parts = [
            ("NVIDIA driver: CUDA ", &self.driver, &self.driver_problem),
            ("cuDNN: ", &self.cudnn, &self.cudnn_problem),
        ];
        for (what, version, problem) in parts {
            match (version, problem) {
                (Some(version), _) => text.push_str(&format!("{what}{version}\n")),
                // Without a driver nobody needs cuDNN.
                (None, Some(problem)) if what.starts_with("NVIDIA") || self.driver.is_some() => {
                    text.push_str(&format!("{problem}\n"));
                }
                (None, _) => {}
            }
        }
        text
    }
}

fn told(found: Result<String, medseg::nn::cuda::Error>) -> (Option<String>, Option<String>) {
    match found {
        Ok(found) => (Some(found), None),
        Err(error) => (None, Some(error.to_string())),
    }
}

fn dotted(version: &[usize]) -> String {
    let parts: Vec<String> = version.iter().map(usize::to_string).collect();
    parts.join(".")
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1_u32 << 30)
}
