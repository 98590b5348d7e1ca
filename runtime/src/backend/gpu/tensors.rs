//! How the recurrent tensors of a sequence lie in buffers: the states of convolutions in one and all others in another, or in as few as the
//! device allows, so that a copy is a command or two. A kernel may write to a state of each kind, and WebGPU forbids that writable bindings of one
//! buffer overlap, as those of several sequences would.

#![deny(clippy::wildcard_enum_match_arm)]

use super::target::Target;
use crate::Error;
use crate::plan::op::{DoubleBuffer, StateId};
use crate::plan::{Plan, StateKind};

/// Alignment of the offsets of bindings on every device.
const ALIGNMENT: u64 = 256;
/// Bytes in which kernels count the beginning of a slot.
const UNIT: u64 = 16;
/// Label in allocation errors.
pub(super) const WHAT: &str = "a session's state";

/// Where the tensors of every session lie in its slot of the buffers.
pub(super) struct StateLayout {
    /// By state; `None` for caches.
    places: Vec<Option<Place>>,
    pub buffers: Vec<SlotBuffer>,
    /// Most slots of a buffer.
    pub most_slots: usize,
}

/// A buffer that holds a part of every slot, one after another.
pub(super) struct SlotBuffer {
    /// Bytes of a slot.
    pub stride: u64,
    /// Whether it holds states of convolutions; if not, all others.
    conv: bool,
}

/// Where a tensor lies.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub buffer: usize,
    pub offset: u64,
    /// Of one copy.
    pub bytes: u64,
    /// The second halves of what is double-buffered follow the tensor. Sizes of ends are in bytes.
    double_buffer: DoubleBuffer,
}

impl Place {
    /// A place for a tensor of so many elements.
    fn new(bytes: u64, elements: usize, double_buffer: DoubleBuffer) -> Self {
        let double_buffer = match double_buffer {
            // In bytes from here on.
            DoubleBuffer::Ends { parts, elements: own } => {
                DoubleBuffer::Ends { parts, elements: own * (bytes as usize / elements.max(1)) }
            }
            all @ (DoubleBuffer::Nothing | DoubleBuffer::All) => all,
        };
        Self { buffer: 0, offset: 0, bytes, double_buffer }
    }

    /// Bytes in all, padded so that they can be copied and bound.
    pub(super) fn size(self) -> u64 {
        let second = match self.double_buffer {
            DoubleBuffer::Nothing => 0,
            DoubleBuffer::All => self.bytes,
            DoubleBuffer::Ends { parts, elements } => (parts * elements) as u64,
        };
        (self.bytes + second).next_multiple_of(4).max(16)
    }

    /// The tensor as the last step left it, from all the bytes of this place; `None` where there are too few.
    pub(super) fn current(self, all: &[u8], parity: u32) -> Option<Vec<u8>> {
        let bytes = self.bytes as usize;
        let (first, second) = all.split_at_checked(bytes)?;
        if parity == 0 {
            return Some(first.to_vec());
        }
        match self.double_buffer {
            DoubleBuffer::Nothing => Some(first.to_vec()),
            DoubleBuffer::All => second.get(..bytes).map(<[u8]>::to_vec),
            DoubleBuffer::Ends { parts, elements } => {
                let mut whole = first.to_vec();
                let ends = second.get(..parts * elements)?.chunks_exact(elements.max(1));
                for (part, end) in whole.chunks_exact_mut(bytes / parts.max(1)).zip(ends) {
                    let rest = part.len().checked_sub(elements)?;
                    part[rest..].copy_from_slice(end);
                }
                Some(whole)
            }
        }
    }

    /// A tensor with both halves of what is double-buffered, so that either can be read next.
    pub(super) fn with_copies(self, mut tensor: Vec<u8>) -> Vec<u8> {
        match self.double_buffer {
            DoubleBuffer::Nothing => {}
            DoubleBuffer::All => tensor.extend_from_within(..),
            DoubleBuffer::Ends { parts, elements } => {
                let part = tensor.len() / parts.max(1);
                for end in (1..=parts).map(|index| index * part) {
                    tensor.extend_from_within(end.saturating_sub(elements)..end);
                }
            }
        }
        tensor.resize(tensor.len().next_multiple_of(4), 0);
        tensor
    }
}

impl StateLayout {
    /// Places for the states of `plan`.
    ///
    /// # Errors
    /// When a tensor is larger than a kernel can bind.
    pub(super) fn new(target: &Target, plan: &Plan) -> Result<Self, Error> {
        let mut double_buffers = vec![DoubleBuffer::Nothing; plan.states.len()];
        for stepped in plan.ops.iter().flat_map(|op| op.description().states()) {
            double_buffers[stepped.state.0] = stepped.double_buffer;
        }
        let most = target.max_buffer;
        let (mut places, mut buffers) = (Vec::new(), Vec::<SlotBuffer>::new());
        for (state, &double_buffer) in plan.states.iter().zip(&double_buffers) {
            let StateKind::Tensor { .. } = &state.kind else {
                places.push(None);
                continue;
            };
            let place = Place::new(state.bytes(0) as u64, state.elements(0), double_buffer);
            let needed = place.size();
            if needed > target.max_binding {
                let (what, limit) = (format!("a buffer for {WHAT}"), target.max_binding);
                return Err(Error::DeviceLimit { what, needed, limit });
            }
            let conv = double_buffer == DoubleBuffer::All;
            let fits = |own: &SlotBuffer| own.conv == conv && own.stride + needed <= most;
            let buffer = buffers.iter().rposition(fits).unwrap_or_else(|| {
                buffers.push(SlotBuffer { stride: 0, conv });
                buffers.len() - 1
            });
            let offset = buffers[buffer].stride;
            buffers[buffer].stride = (offset + needed).next_multiple_of(ALIGNMENT);
            places.push(Some(Place { buffer, offset, ..place }));
        }
        let mut layout = Self { places, buffers, most_slots: 1 };
        layout.most_slots = layout.fitting(target);
        Ok(layout)
    }

    /// The most slots such that a kernel can bind a tensor from the first to the last.
    fn fitting(&self, target: &Target) -> usize {
        // Kernels know one stride for each kind.
        let split = |conv| self.buffers.iter().filter(|own| own.conv == conv).count() > 1;
        if split(true) || split(false) {
            return 1;
        }
        let whole = self.buffers.iter().map(|own| target.max_buffer / own.stride);
        let bound = self.places.iter().flatten().map(|place| {
            1 + (target.max_binding - place.size()) / self.buffers[place.buffer].stride
        });
        let most = whole.chain(bound).min().unwrap_or(1).max(1);
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// Where a tensor lies; `None` for a cache.
    pub(super) fn place(&self, id: StateId) -> Option<Place> {
        self.places.get(id.0).copied().flatten()
    }

    /// Bytes of a slot.
    pub(super) fn bytes(&self) -> usize {
        self.buffers.iter().map(|own| own.stride).sum::<u64>() as usize
    }

    /// Where a slot begins, as kernels count it: in the buffer of states of convolutions, or in the other.
    pub(super) fn units(&self, slot: usize, conv: bool) -> u32 {
        let stride = self.buffers.iter().find(|own| own.conv == conv).map_or(0, |own| own.stride);
        // Bounded by `most_slots`.
        (slot as u64 * stride / UNIT) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::gpu::recording::tests::{plan, target};

    #[test]
    fn a_slot_takes_what_its_tensors_take_and_a_kernel_can_bind_all_slots() {
        let target = target();
        for case in ["mamba2/plain", "xlstm/plain", "bamba/plain", "qwen3_next/plain"] {
            let layout = StateLayout::new(&target, &plan(case)).unwrap();
            let places: Vec<Place> = layout.places.iter().flatten().copied().collect();
            let sizes: u64 =
                places.iter().map(|place| place.size().next_multiple_of(ALIGNMENT)).sum();
            assert_eq!(layout.bytes() as u64, sizes, "{case}");
            for place in &places {
                let conv = layout.buffers[place.buffer].conv;
                assert_eq!(conv, place.double_buffer == DoubleBuffer::All, "{case}");
            }
            let stride = |place: &Place| layout.buffers[place.buffer].stride;
            let fits = |slots: u64| {
                let bound = |place: &Place| place.size() + (slots - 1) * stride(place);
                let bound = places.iter().all(|place| bound(place) <= target.max_binding);
                bound && places.iter().all(|place| slots * stride(place) <= target.max_buffer)
            };
            let most = layout.most_slots as u64;
            assert!(most > 1 && fits(most) && !fits(most + 1), "{case}: {most}");
            assert_eq!(layout.units(0, true), 0);
            let other = layout.buffers.iter().find(|own| !own.conv).unwrap();
            assert_eq!(u64::from(layout.units(3, false)) * UNIT, 3 * other.stride);
        }
    }

    #[test]
    fn a_session_that_fills_several_buffers_has_slots_of_its_own() {
        let mut target = target();
        let plan = plan("mamba2/plain");
        let whole = StateLayout::new(&target, &plan).unwrap();
        let largest = whole.places.iter().flatten().map(|place| place.size()).max().unwrap();
        target.max_buffer = largest.next_multiple_of(ALIGNMENT);
        target.max_binding = target.max_buffer;
        let split = StateLayout::new(&target, &plan).unwrap();
        assert!(split.buffers.len() > whole.buffers.len());
        assert_eq!((split.most_slots, split.bytes()), (1, whole.bytes()));
    }
}
