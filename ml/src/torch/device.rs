//! Where to compute: the processor, or a CUDA device where libtorch has CUDA.
//!
//! The linker drops libtorch's CUDA part, which nothing names, so one program serves both: the
//! part is loaded here, before anything else of libtorch is called.

use tch::{Cuda, Device};

use crate::error::JobError;
use crate::jobs::DeviceChoice;

/// Finds the device that was asked for. `Auto` takes the first CUDA device, or the processor.
pub fn resolve(choice: DeviceChoice) -> Result<Device, JobError> {
    if choice == DeviceChoice::Cpu {
        return Ok(Device::Cpu);
    }
    let loaded = load_cuda();
    let devices = if Cuda::is_available() { Cuda::device_count() } else { 0 };
    match choice {
        DeviceChoice::Cuda(index) if i64::from(index) < devices => {
            Ok(Device::Cuda(usize::from(index)))
        }
        DeviceChoice::Cuda(index) => {
            let why = match loaded {
                Err(reason) => format!("this libtorch has no CUDA ({reason})"),
                Ok(()) => format!("there are {devices} CUDA devices"),
            };
            Err(JobError::Request(format!(
                "device cuda:{index} was asked for, but {why}: install libtorch with CUDA and a \
                 driver for it, or use --device cpu or auto"
            )))
        }
        _ => Ok(if devices > 0 { Device::Cuda(0) } else { Device::Cpu }),
    }
}

/// The device's name, as in `--device`.
pub fn name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        _ => "cpu".into(),
    }
}

/// Loads libtorch's CUDA part, found through the run path as libtorch itself is.
fn load_cuda() -> Result<(), String> {
    super::foreign::load("libtorch_cuda.so")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_named() {
        assert_eq!(resolve(DeviceChoice::Cpu).expect("always there"), Device::Cpu);
        let refused = resolve(DeviceChoice::Cuda(63)).expect_err("nobody has so many");
        assert!(refused.to_string().contains("cuda:63 was asked for"), "{refused}");
    }
}
