//! The machine's GPUs, as NVIDIA's driver tells of them. It is looked for when the node starts; a machine without it
//! has none.
//!
//! (NVIDIA Management Library, NVML.)

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use serde::{Deserialize, Serialize};

/// What is told of one GPU.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gpu {
    /// Its name: `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// How its driver knows it, on every start.
    pub uuid: String,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of it that are free.
    pub memory_free: u64,
    /// The driver's version.
    pub driver: String,
    /// The share of the last moments in which it computed, 0 to 1.
    pub used: f32,
    /// Its temperature, in degrees Celsius.
    pub celsius: u32,
}

/// Looks at GPUs. None, where there is no driver.
pub(super) struct Gpus(Option<Nvml>);

impl Gpus {
    pub(super) fn new() -> Self {
        match Nvml::init() {
            Ok(nvml) => Gpus(Some(nvml)),
            // Most machines have none, and nobody misses it.
            Err(error) => {
                tracing::debug!(%error, "no GPUs: NVIDIA's driver is not here");
                Gpus(None)
            }
        }
    }

    /// What they are now. One that fell off its bus is left out.
    pub(super) fn look(&self) -> Vec<Gpu> {
        let Some(nvml) = &self.0 else { return Vec::new() };
        let driver = nvml.sys_driver_version().unwrap_or_default();
        let count = nvml.device_count().unwrap_or(0);
        (0..count).filter_map(|n| look(nvml, n, &driver).ok()).collect()
    }
}

fn look(nvml: &Nvml, n: u32, driver: &str) -> Result<Gpu, NvmlError> {
    let device = nvml.device_by_index(n)?;
    let memory = device.memory_info()?;
    Ok(Gpu {
        name: device.name()?,
        uuid: device.uuid()?,
        memory: memory.total,
        memory_free: memory.free,
        driver: driver.to_owned(),
        // Not every card tells these.
        used: device.utilization_rates().map_or(0.0, |rates| rates.gpu as f32 / 100.0),
        celsius: device.temperature(TemperatureSensor::Gpu).unwrap_or(0),
    })
}
