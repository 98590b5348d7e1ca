//! What is known of an adapter, whatever its API.

use std::fmt;

use super::capabilities::Capabilities;

/// What kind of device an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdapterKind {
    /// A graphics card.
    Discrete,
    /// Part of the processor.
    Integrated,
    /// A device of a virtual machine.
    Virtual,
    /// The processor playing a device: right, but slower than the CPU backend.
    Software,
    /// The driver doesn't say.
    Other,
}

impl fmt::Display for AdapterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discrete => "discrete",
            Self::Integrated => "integrated",
            Self::Virtual => "virtual",
            Self::Software => "software",
            Self::Other => "other",
        })
    }
}

/// An adapter, what it can do, and what of that is used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdapterInfo {
    /// Its number: what [`ModelOptions::adapter`](crate::ModelOptions::adapter) takes.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: AdapterKind,
    /// `vulkan`, `metal`, `dx12`, ...
    pub api: String,
    /// Driver and version.
    pub driver: String,
    /// Smallest and largest subgroup, where it has them.
    pub subgroups: Option<(u32, u32)>,
    /// What it can do beyond WebGPU's core.
    pub capabilities: Capabilities,
    /// Largest buffer that a kernel can see, in bytes.
    pub max_binding: u64,
    /// Largest buffer, in bytes.
    pub max_buffer: u64,
    /// Why it can't be used, if so.
    pub unusable: Option<String>,
}

impl AdapterInfo {
    /// Whether the `auto` backend may take it: never one that is played by the processor.
    pub fn is_hardware(&self) -> bool {
        matches!(self.kind, AdapterKind::Discrete | AdapterKind::Integrated)
            && self.unusable.is_none()
    }
}

/// `0: NAME (discrete, vulkan)`, and why it can't be used, if so.
impl fmt::Display for AdapterInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({}, {})", self.index, self.name, self.kind, self.api)?;
        match &self.unusable {
            Some(reason) => write!(f, ", not usable: {reason}"),
            None => Ok(()),
        }
    }
}

/// The best hardware adapter for the `auto` backend: a discrete one before one that is part of the processor.
pub(super) fn best_hardware(adapters: &[AdapterInfo]) -> Option<usize> {
    let usable = adapters.iter().filter(|adapter| adapter.is_hardware());
    usable.min_by_key(|adapter| adapter.kind != AdapterKind::Discrete).map(|adapter| adapter.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(index: usize, kind: AdapterKind, unusable: Option<&str>) -> AdapterInfo {
        AdapterInfo {
            index,
            name: "adapter".into(),
            kind,
            api: "vulkan".into(),
            driver: "driver".into(),
            subgroups: None,
            capabilities: Capabilities::default(),
            max_binding: 1 << 27,
            max_buffer: 1 << 28,
            unusable: unusable.map(Into::into),
        }
    }

    #[test]
    fn auto_takes_a_discrete_adapter_then_an_integrated_one_and_no_other() {
        let software = adapter(0, AdapterKind::Software, None);
        let virtual_one = adapter(1, AdapterKind::Virtual, None);
        let integrated = adapter(2, AdapterKind::Integrated, None);
        let broken = adapter(3, AdapterKind::Discrete, Some("too old"));
        let discrete = adapter(4, AdapterKind::Discrete, None);
        let mut all = vec![software, virtual_one];
        assert_eq!(best_hardware(&all), None);
        all.extend([integrated, broken]);
        assert_eq!(best_hardware(&all), Some(2));
        all.push(discrete);
        assert_eq!(best_hardware(&all), Some(4));
    }
}
