//! Memory, tables and instances of one run, all inner instances added up.
//!
//! wasmtime's own limits count per memory and per table; a component can have many of each.

use wasmtime::ResourceLimiter;

const MEMORIES_MAX: usize = 4;
const TABLES_MAX: usize = 48;
const INSTANCES_MAX: usize = 64;
const TABLE_ELEMENTS_MAX: usize = 32_768;

/// The counters of one run.
#[derive(Debug)]
pub(crate) struct Limiter {
    memory_max: usize,
    memory: usize,
    memory_peak: usize,
    growing: usize,
    elements: usize,
    was_refused: bool,
}

impl Limiter {
    pub(crate) fn new(memory_bytes_max: u64) -> Self {
        let memory_max = usize::try_from(memory_bytes_max).unwrap_or(usize::MAX);
        Self { memory_max, memory: 0, memory_peak: 0, growing: 0, elements: 0, was_refused: false }
    }

    /// Linear memory at its largest.
    pub(crate) fn memory_peak(&self) -> u64 {
        self.memory_peak as u64
    }

    /// Whether the guest asked for more memory than it may have. A trap after that is a memory failure: what a guest does
    /// when its allocator fails is to trap.
    pub(crate) fn was_refused(&self) -> bool {
        self.was_refused
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        let total = self.memory.saturating_add(more);
        if total > self.memory_max || maximum.is_some_and(|maximum| desired > maximum) {
            self.was_refused = true;
            return Ok(false);
        }
        self.growing = more;
        self.memory = total;
        self.memory_peak = self.memory_peak.max(total);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.memory = self.memory.saturating_sub(std::mem::take(&mut self.growing));
        self.was_refused = true;
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.elements.saturating_add(desired.saturating_sub(current));
        if total > TABLE_ELEMENTS_MAX {
            self.was_refused = true;
            return Ok(false);
        }
        self.elements = total;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_are_added_up_and_a_failed_growth_is_given_back() {
        let mut limiter = Limiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 60, None).unwrap(), "a second memory does not dodge the cap");
        assert!(limiter.was_refused());
        assert!(limiter.memory_growing(60, 100, None).unwrap());
        limiter.memory_grow_failed(wasmtime::Error::msg("no")).unwrap();
        assert!(limiter.memory_growing(60, 100, None).unwrap());
        assert_eq!(limiter.memory_peak(), 100);
    }
}
