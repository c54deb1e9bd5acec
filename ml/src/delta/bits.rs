//! A bit stream, least significant bit first, and the Rice code on it.
//!
//! Rice(b) of a number: the number shifted right by b in unary (that many ones, then a zero),
//! then its low b bits.

/// Bits that can be had at once after a refill.
const READY_BITS: u32 = 56;

/// Writes bits into bytes.
#[derive(Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    pending: u64,
    pending_bits: u32,
}

impl BitWriter {
    /// Appends the low `width` bits of `value`, at most 32.
    pub(super) fn put(&mut self, value: u32, width: u32) {
        self.pending |= u64::from(value) << self.pending_bits;
        self.pending_bits += width;
        while self.pending_bits >= 8 {
            let [low, ..] = self.pending.to_le_bytes();
            self.bytes.push(low);
            self.pending >>= 8;
            self.pending_bits -= 8;
        }
    }

    /// Appends a number in the Rice code with parameter `b`.
    pub(super) fn put_rice(&mut self, value: u32, b: u32) {
        for _ in 0..value >> b {
            self.put(1, 1);
        }
        self.put(0, 1);
        self.put(value & ((1 << b) - 1), b);
    }

    /// The bytes, padded with zero bits.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let padding = (8 - self.pending_bits % 8) % 8;
        self.put(0, padding);
        self.bytes
    }
}

/// Reads bits from bytes.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    next_bit: usize,
}

impl<'a> BitReader<'a> {
    /// A reader at the first bit.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, next_bit: 0 }
    }

    /// The next bits, at least [`READY_BITS`] of them; zeros after the end.
    #[inline]
    fn word(&self) -> u64 {
        let at = self.next_bit / 8;
        let word = match self.bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => {
                let mut last = [0u8; 8];
                let rest = self.bytes.get(at..).unwrap_or_default();
                for (to, from) in last.iter_mut().zip(rest) {
                    *to = *from;
                }
                u64::from_le_bytes(last)
            }
        };
        word >> (self.next_bit % 8)
    }

    /// The next `width` bits, at most 32. After the end they are zeros: see [`Self::is_past_end`].
    #[inline]
    pub(super) fn take(&mut self, width: u32) -> u32 {
        let [a, b, c, d, ..] = (self.word() & ((1u64 << width) - 1)).to_le_bytes();
        self.next_bit += crate::tensors::index(width);
        u32::from_le_bytes([a, b, c, d])
    }

    /// The next number in the Rice code with parameter `b`, with `extra` more bits above its low
    /// ones: `(number, extra bits)`; `None` if the number is above `max`. `b + extra` is at most
    /// 16.
    #[inline]
    pub(super) fn take_rice(&mut self, b: u32, extra: u32, max: u32) -> Option<(u32, u32)> {
        let word = self.word();
        let ones = word.trailing_ones();
        let width = b + extra;
        let (high, low) = if ones + 1 + width <= READY_BITS {
            self.next_bit += crate::tensors::index(ones + 1 + width);
            let [x, y, z, ..] = ((word >> (ones + 1)) & ((1u64 << width) - 1)).to_le_bytes();
            (ones, u32::from_le_bytes([x, y, z, 0]))
        } else {
            (self.take_unary(max >> b)?, self.take(width))
        };
        let value = (u64::from(high) << b) | u64::from(low & ((1 << b) - 1));
        let value = u32::try_from(value).ok().filter(|value| *value <= max)?;
        Some((value, low >> b))
    }

    /// A long run of ones and its zero.
    fn take_unary(&mut self, max: u32) -> Option<u32> {
        let mut ones = 0;
        while self.take(1) == 1 {
            ones += 1;
            if ones > max {
                return None;
            }
        }
        Some(ones)
    }

    /// Whether more bits were taken than there are.
    pub(super) fn is_past_end(&self) -> bool {
        self.next_bit > self.bytes.len() * 8
    }

    /// Whether all bytes were taken and only zeros are left of the last one.
    pub(super) fn is_finished(&self) -> bool {
        self.next_bit.div_ceil(8) == self.bytes.len()
            && self.word() & ((1 << ((8 - self.next_bit % 8) % 8)) - 1) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rice_round_trip() {
        let mut writer = BitWriter::default();
        let numbers = [0u32, 1, 7, 8, 31, 32, 4095, 12];
        for b in 0..8 {
            for number in numbers {
                writer.put_rice(number, b);
                writer.put(number % 4, 2);
            }
        }
        let bytes = writer.finish();
        let mut reader = BitReader::new(&bytes);
        for b in 0..8 {
            for number in numbers {
                assert_eq!(reader.take_rice(b, 2, 4095), Some((number, number % 4)));
            }
        }
        assert!(reader.is_finished() && !reader.is_past_end());
    }

    #[test]
    fn limits() {
        assert_eq!(BitReader::new(&[0xff; 4]).take_rice(3, 2, 60), None);
        assert_eq!(BitReader::new(&[0xff; 40]).take_rice(0, 2, 200), None);
        let mut reader = BitReader::new(&[0b0000_0100]);
        assert_eq!(reader.take(3), 4);
        assert!(reader.is_finished() && !reader.is_past_end());
        assert_eq!(reader.take(6), 0);
        assert!(reader.is_past_end());
        assert!(!BitReader::new(&[0]).is_finished());
        let mut reader = BitReader::new(&[0b1000_0000]);
        reader.take(7);
        assert!(!reader.is_finished(), "padding is zeros");
    }
}
