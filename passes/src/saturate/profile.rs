//! How fast a device is, as far as costs know it. Knows neither how it is measured nor where it is kept.

use serde::{Deserialize, Serialize};

/// How fast a device is. `lith bench --calibrate` writes that of the machine it runs on; [`DeviceProfile::default`] is a
/// desktop core.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceProfile {
    /// Name, for reports.
    pub name: String,
    /// Floating-point operations per second and thread of a contraction, a multiplication and an addition being two.
    pub flops_per_second: f64,
    /// Bytes per second and thread between the cores and memory or the last cache.
    pub bytes_per_second: f64,
    /// Elements per second and thread of an elementwise operation of weight 1 whose operands are in registers or the first
    /// cache: an addition weighs a half, an exponential 4.
    pub elements_per_second: f64,
    /// Microseconds that a kernel takes to start.
    pub launch_us: f64,
    /// Threads that share the work.
    pub threads: usize,
}

impl Default for DeviceProfile {
    /// One core with 256-bit vectors: 16 multiply-adds a cycle at 3 GHz.
    fn default() -> Self {
        DeviceProfile {
            name: "x86-64-v3".into(),
            flops_per_second: 8e10,
            bytes_per_second: 1e10,
            elements_per_second: 6e9,
            launch_us: 0.5,
            threads: 1,
        }
    }
}

/// A figure that no device has.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{field}` is {found}, expected {expected}")]
pub struct ProfileError {
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub found: f64,
    /// What it may be.
    pub expected: &'static str,
}

impl DeviceProfile {
    /// Whether all figures are ones that costs can be computed with.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn check(&self) -> Result<(), ProfileError> {
        let rates = [
            ("flops_per_second", self.flops_per_second),
            ("bytes_per_second", self.bytes_per_second),
            ("elements_per_second", self.elements_per_second),
        ];
        // From a pocket calculator to more than any machine.
        for (field, found) in rates {
            if !(1e3..=1e24).contains(&found) {
                return Err(ProfileError { field, found, expected: "between 1e3 and 1e24" });
            }
        }
        if !(0.0..=1e9).contains(&self.launch_us) {
            return Err(ProfileError { field: "launch_us", found: self.launch_us, expected: "between 0 and 1e9" });
        }
        if !(1..=65_536).contains(&self.threads) {
            return Err(ProfileError { field: "threads", found: self.threads as f64, expected: "between 1 and 65536" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_checked() {
        let good = DeviceProfile::default();
        assert_eq!(good.check(), Ok(()));
        type Spoil = fn(&mut DeviceProfile);
        let bad: [(&str, Spoil); 5] = [
            ("flops_per_second", |p| p.flops_per_second = 0.0),
            ("bytes_per_second", |p| p.bytes_per_second = f64::NAN),
            ("elements_per_second", |p| p.elements_per_second = f64::INFINITY),
            ("launch_us", |p| p.launch_us = -1.0),
            ("threads", |p| p.threads = 0),
        ];
        for (field, spoil) in bad {
            let mut profile = good.clone();
            spoil(&mut profile);
            assert_eq!(profile.check().unwrap_err().field, field);
        }
    }
}
