//! A kernel's parameters, by the names that they have in its source.

use kinglet_shaders::Field;

/// Stands for the offset of something that is not there.
pub(super) const ABSENT: u32 = u32::MAX;

/// The uniform buffer of a kernel in the making: every field must be set, and no other.
pub(super) struct Params {
    fields: &'static [Field],
    bytes: Vec<u8>,
    set: Vec<bool>,
    /// The first name that was not a field, or of another type.
    stray: Option<String>,
}

impl Params {
    pub(super) fn new(fields: &'static [Field], bytes: u32) -> Self {
        let bytes = vec![0; (bytes as usize).next_multiple_of(16)];
        Self { fields, bytes, set: vec![false; fields.len()], stray: None }
    }

    fn write(&mut self, name: &str, float: bool, value: [u8; 4]) {
        let index = self.fields.iter().position(|field| field.name == name && field.float == float);
        let place = index.and_then(|index| {
            let start = self.fields[index].offset as usize;
            self.set[index] = true;
            self.bytes.get_mut(start..start + 4)
        });
        match place {
            Some(place) => place.copy_from_slice(&value),
            None => self.stray = Some(name.into()),
        }
    }

    /// A whole number. Sizes that a plan can have fit: buffers are bounded by the device.
    pub(super) fn set(&mut self, name: &str, value: usize) -> &mut Self {
        self.set_u32(name, u32::try_from(value).unwrap_or(ABSENT))
    }

    /// A whole number or [`ABSENT`].
    pub(super) fn set_u32(&mut self, name: &str, value: u32) -> &mut Self {
        self.write(name, false, value.to_le_bytes());
        self
    }

    pub(super) fn set_f32(&mut self, name: &str, value: f32) -> &mut Self {
        self.write(name, true, value.to_le_bytes());
        self
    }

    /// The bytes, or what is wrong with them.
    pub(super) fn finish(self) -> Result<Vec<u8>, String> {
        if let Some(name) = self.stray {
            return Err(format!("no parameter {name}"));
        }
        let missing = self.fields.iter().zip(&self.set).find(|(_, set)| !**set);
        match missing {
            Some((field, _)) => Err(format!("parameter {} is not set", field.name)),
            None => Ok(self.bytes),
        }
    }
}

/// `vector` from element `start` on; nothing stays nothing.
pub(super) fn offset(vector: u32, start: usize) -> u32 {
    if vector == ABSENT { ABSENT } else { vector + start as u32 }
}

/// The kernels' number of an activation.
pub(super) fn activation(activation: kinglet_models::Activation) -> usize {
    use kinglet_models::Activation;
    match activation {
        Activation::Silu => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::Relu => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[Field] = &[
        Field { name: "rows", offset: 0, float: false },
        Field { name: "scale", offset: 8, float: true },
    ];

    #[test]
    fn values_go_where_the_kernel_reads_them() {
        let mut params = Params::new(FIELDS, 12);
        params.set("rows", 7).set_f32("scale", 0.5);
        let bytes = params.finish().unwrap();
        assert_eq!(bytes.len(), 16);
        assert_eq!((bytes[0], &bytes[8..12]), (7, &0.5f32.to_le_bytes()[..]));
    }

    #[test]
    fn every_field_must_be_set_and_no_other() {
        let mut params = Params::new(FIELDS, 12);
        params.set("rows", 7);
        assert!(params.finish().unwrap_err().contains("scale"));
        let mut params = Params::new(FIELDS, 12);
        // A number of the wrong type is a name that isn't there.
        params.set("rows", 7).set("scale", 1);
        assert!(params.finish().unwrap_err().contains("scale"));
        let mut params = Params::new(FIELDS, 12);
        params.set("rows", 7).set_f32("scale", 1.0).set("cols", 1);
        assert!(params.finish().unwrap_err().contains("cols"));
    }
}
