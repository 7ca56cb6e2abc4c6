//! Which cores there are, and staying on one.

/// A core that this process may run on, as the kernel numbers them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CoreNumber(pub usize);

/// The cores that the calling thread may run on, in the kernel's order. Empty if the kernel does not
/// say.
pub fn usable_cores() -> Vec<CoreNumber> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    cores.into_iter().map(|core| CoreNumber(core.id)).collect()
}

/// Keeps the calling thread on one core. False if the kernel refuses.
pub fn pin_current_thread(core: CoreNumber) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: core.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_can_be_pinned_to_a_usable_core() {
        std::thread::spawn(|| {
            let cores = usable_cores();
            let last = *cores.last().unwrap();
            assert!(pin_current_thread(last));
            assert_eq!(usable_cores(), [last]);
            assert!(!pin_current_thread(CoreNumber(1023)));
        })
        .join()
        .unwrap();
    }
}
