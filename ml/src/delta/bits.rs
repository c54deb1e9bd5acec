//! A bit stream, least significant bit first, and the Rice code on it.
//!
//! Rice(b) of a number: the number shifted right by b in unary (that many ones, then a zero),
//! then its low b bits.

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

    fn bit(&mut self) -> Option<u32> {
        let byte = self.bytes.get(self.next_bit / 8)?;
        let bit = byte >> (self.next_bit % 8) & 1;
        self.next_bit += 1;
        Some(u32::from(bit))
    }

    /// The next `width` bits; `None` at the end of the bytes.
    pub(super) fn take(&mut self, width: u32) -> Option<u32> {
        let mut value = 0;
        for shift in 0..width {
            value |= self.bit()? << shift;
        }
        Some(value)
    }

    /// The next number in the Rice code with parameter `b`; `None` if it is above `max`.
    pub(super) fn take_rice(&mut self, b: u32, max: u32) -> Option<u32> {
        let mut high = 0;
        while self.bit()? == 1 {
            high += 1;
            if high > max >> b {
                return None;
            }
        }
        let value = high << b | self.take(b)?;
        (value <= max).then_some(value)
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
            }
        }
        let bytes = writer.finish();
        let mut reader = BitReader::new(&bytes);
        for b in 0..8 {
            for number in numbers {
                assert_eq!(reader.take_rice(b, 4095), Some(number));
            }
        }
    }

    #[test]
    fn limits() {
        assert_eq!(BitReader::new(&[0xff; 4]).take_rice(3, 60), None);
        assert_eq!(BitReader::new(&[0xff]).take_rice(0, 4095), None);
        assert_eq!(BitReader::new(&[]).take(1), None);
        assert_eq!(BitReader::new(&[]).take(0), Some(0));
    }
}
