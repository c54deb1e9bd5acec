//! Logits of the next token of several texts, with a cache of what was read.

use tch::{Device, Tensor};

use crate::error::JobError;
use crate::torch::cache::{Cache, Decoder};
use crate::torch::model::dimension;

/// Memory of one cache. A larger one would starve what else the machine does.
const CACHE_BYTES_MAX: i64 = 8 * 1024 * 1024 * 1024;

/// Texts that are being continued.
pub struct Engine<'a> {
    decoder: &'a dyn Decoder,
    cache: Cache,
    context: usize,
    capacity: usize,
    /// The part of each text that is in the context.
    rows: Vec<Vec<u32>>,
    /// Whether all of it must be read again.
    unread: bool,
    device: Device,
}

impl<'a> Engine<'a> {
    /// Texts of at least one token each, to which at most `most` tokens will be added.
    pub fn new(
        decoder: &'a dyn Decoder,
        prompts: &[Vec<u32>],
        most: usize,
        device: Device,
    ) -> Result<Self, JobError> {
        let shape = decoder.cache_shape();
        let context = usize::try_from(shape.context).expect("a checked context");
        let rows: Vec<Vec<u32>> =
            prompts.iter().map(|row| row[row.len().saturating_sub(context)..].to_vec()).collect();
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        let capacity = longest.saturating_add(most).clamp(1, context);
        let bytes = [dimension(rows.len()), shape.heads, dimension(capacity), shape.head, 8]
            .iter()
            .fold(dimension(shape.layers), |product, size| product.saturating_mul(*size));
        if bytes > CACHE_BYTES_MAX {
            return Err(JobError::Request(format!(
                "reading these prompts needs {bytes} bytes at once, at most {CACHE_BYTES_MAX}: \
                 give fewer or shorter ones"
            )));
        }
        let padding = vec![0; rows.len()];
        let cache = Cache::new(shape, dimension(capacity), &padding, device)?;
        Ok(Self { decoder, cache, context, capacity, rows, unread: true, device })
    }

    /// Logits of the next token of each text, one row after the other.
    pub fn logits(&mut self) -> Result<Vec<f32>, JobError> {
        if self.cache.length() >= dimension(self.capacity) {
            self.unread = true;
        }
        let length = if self.unread { self.longest() } else { 1 };
        if self.unread {
            let padding: Vec<i64> =
                self.rows.iter().map(|row| dimension(length - row.len())).collect();
            self.cache.restart(&padding);
        }
        let mut tokens = Vec::with_capacity(self.rows.len() * length);
        for row in &self.rows {
            let new = &row[row.len().saturating_sub(length)..];
            tokens.extend(std::iter::repeat_n(0i64, length - new.len()));
            tokens.extend(new.iter().copied().map(i64::from));
        }
        let tokens = Tensor::f_from_slice(&tokens)?
            .f_view([dimension(self.rows.len()), dimension(length)])?
            .f_to(self.device)?;
        let logits = self.decoder.advance(&tokens, &mut self.cache)?;
        self.unread = false;
        let mut values = vec![0.0f32; logits.numel()];
        logits.f_copy_data(&mut values, logits.numel())?;
        Ok(values)
    }

    fn longest(&self) -> usize {
        self.rows.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Adds a token to each text; those that do not stay are given up.
    pub fn push(&mut self, tokens: &[u32], stays: &[bool]) -> Result<(), JobError> {
        for (row, token) in self.rows.iter_mut().zip(tokens) {
            if row.len() >= self.context {
                row.drain(..row.len() - self.context / 2);
                self.unread = true;
            }
            row.push(*token);
        }
        if stays.iter().all(|stays| *stays) {
            return Ok(());
        }
        let kept: Vec<usize> = (0..self.rows.len()).filter(|row| stays[*row]).collect();
        if !kept.is_empty() {
            self.cache.keep(&kept)?;
        }
        self.rows = kept.into_iter().map(|row| std::mem::take(&mut self.rows[row])).collect();
        Ok(())
    }
}
