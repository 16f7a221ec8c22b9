//! Reads a fuzzer's octets as small numbers and strings. Behind the end there are only zeros, so every input is a
//! whole one, and a small change of the octets is a small change of what they say.

/// What is left of an input.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// True when all was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Up to `n` octets.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// Up to 255 octets, behind an octet with their number.
    pub fn short(&mut self) -> &'a [u8] {
        let n = self.u8();
        self.take(usize::from(n))
    }

    /// Up to 65,535 octets, behind two octets with their number.
    pub fn long(&mut self) -> &'a [u8] {
        let n = self.u16();
        self.take(usize::from(n))
    }

    /// The next octet.
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// The next two octets.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    /// The next four octets.
    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    /// The next eight octets.
    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    /// True for an odd octet.
    pub fn coin(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    /// A number below `bound`, which is at most 256; 0 when that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.u8()) % bound.max(1)
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let taken = self.take(N);
        let mut out = [0; N];
        out[..taken.len()].copy_from_slice(taken);
        out
    }
}
