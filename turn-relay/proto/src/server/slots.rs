//! Allocations by their place, so that a relay socket finds its allocation without a search.

use super::allocation::Allocation;

/// Places, some of them empty. A place that becomes empty gets another generation, so that what is late for the
/// allocation that was there does not meet the next one.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    allocation: Option<Box<Allocation>>,
}

impl Slots {
    /// Where the next allocation is put: its slot and generation.
    pub(super) fn next(&self) -> Option<(u32, u32)> {
        match self.free.last() {
            Some(slot) => {
                let generation = self.slots.get(usize::try_from(*slot).ok()?)?.generation;
                Some((*slot, generation))
            }
            None => Some((u32::try_from(self.slots.len()).ok()?, 0)),
        }
    }

    /// Puts an allocation where [`Self::next`] said.
    pub(super) fn insert(&mut self, allocation: Allocation) {
        let allocation = Some(Box::new(allocation));
        match self.free.pop() {
            Some(slot) => {
                if let Some(slot) = self.slots.get_mut(slot as usize) {
                    slot.allocation = allocation;
                }
            }
            None => self.slots.push(Slot {
                generation: 0,
                allocation,
            }),
        }
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Allocation> {
        self.slots.get(slot as usize)?.allocation.as_deref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Allocation> {
        self.slots.get_mut(slot as usize)?.allocation.as_deref_mut()
    }

    /// The allocation, if it is still the one of that generation.
    pub(super) fn get_same_mut(&mut self, slot: u32, generation: u32) -> Option<&mut Allocation> {
        let slot = self.slots.get_mut(slot as usize)?;
        (slot.generation == generation)
            .then_some(slot.allocation.as_deref_mut())
            .flatten()
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Box<Allocation>> {
        let place = self.slots.get_mut(slot as usize)?;
        let allocation = place.allocation.take()?;
        // a place that has been used four billion times is left alone, so that no RelayId comes twice
        if let Some(generation) = place.generation.checked_add(1) {
            place.generation = generation;
            self.free.push(slot);
        }
        Some(allocation)
    }

    /// The places that are taken.
    pub(super) fn taken(&self) -> Vec<u32> {
        (0..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.allocation.is_some())
            .map(|(index, _)| index)
            .collect()
    }
}
