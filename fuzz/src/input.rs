//! Decisions read off the fuzzer's bytes. Each is a few whole bytes, so that a change to one leaves the others alone;
//! where the bytes end, all that follows is 0.

/// What is left of an input.
pub(super) struct Input<'data>(&'data [u8]);

impl<'data> Input<'data> {
    pub(super) const fn new(data: &'data [u8]) -> Input<'data> {
        Input(data)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    pub(super) fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    pub(super) fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// Below `bound`, which is at most 256.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Mostly a small number; also those near the end, where additions overflow, and any other.
    pub(super) fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=239 => small.into(),
            near @ 240..=252 => u64::MAX - u64::from(near - 240),
            253 => 1 << (self.byte() % 64),
            254 => self.word().into(),
            255 => u64::from_be_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    /// At most `most` bytes.
    pub(super) fn bytes(&mut self, most: usize) -> &'data [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
