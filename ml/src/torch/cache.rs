//! Keys and values of the tokens that a model has read, so that the next one costs one step.
//!
//! All rows of a batch end at the same column: shorter ones begin with padding that nobody sees.
//! The memory of a layer is taken once, for the longest text that the cache is made for.

use tch::{Device, Kind, TchError, Tensor};

use super::model::dimension;

/// A model that continues texts.
pub trait Decoder {
    /// Sizes of its cache.
    fn cache_shape(&self) -> CacheShape;
    /// Reads `tokens` `[batch, length]` (i64) after those in the cache: one each, or any number
    /// into an empty cache. Logits `[batch, vocabulary]` of the token after the last.
    fn advance(&self, tokens: &Tensor, cache: &mut Cache) -> Result<Tensor, TchError>;
}

/// Sizes of a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers.
    pub layers: usize,
    /// Heads of keys and values.
    pub heads: i64,
    /// Width of a head.
    pub head: i64,
    /// Longest text.
    pub context: i64,
}

/// The cache of a batch of texts.
pub struct Cache {
    /// One per layer.
    pub layers: Vec<LayerCache>,
    shape: CacheShape,
    capacity: i64,
    length: i64,
    /// Padding before each row; none if no row has any.
    padding: Option<Vec<i64>>,
    device: Device,
}

/// Keys and values of one layer: `[batch, heads, capacity, head]`.
pub struct LayerCache {
    keys: Tensor,
    values: Tensor,
}

/// The tokens that are being read.
pub struct Span {
    /// Columns before them.
    pub start: i64,
    /// How many in each row.
    pub length: i64,
    /// What they see, `[batch, 1, length or 1, start + length]`; none if all see all before.
    pub mask: Option<Tensor>,
    /// Their positions `[batch, length]`, where rows differ; otherwise from `start` on.
    pub positions: Option<Tensor>,
}

impl Cache {
    /// An empty cache for rows of at most `capacity` columns; row i begins with `padding[i]`
    /// columns that count for nothing.
    pub fn new(
        shape: CacheShape,
        capacity: i64,
        padding: &[i64],
        device: Device,
    ) -> Result<Self, TchError> {
        let size = [dimension(padding.len()), shape.heads, capacity, shape.head];
        let layers = (0..shape.layers)
            .map(|_| {
                let make = || Tensor::f_empty(size, (Kind::Float, device));
                Ok(LayerCache { keys: make()?, values: make()? })
            })
            .collect::<Result<_, TchError>>()?;
        let mut cache = Self { layers, shape, capacity, length: 0, padding: None, device };
        cache.restart(padding);
        Ok(cache)
    }

    /// Forgets all tokens; the memory stays.
    pub fn restart(&mut self, padding: &[i64]) {
        self.length = 0;
        self.padding = padding.iter().any(|columns| *columns > 0).then(|| padding.to_vec());
    }

    /// Keeps some of the rows, in the order given.
    pub fn keep(&mut self, rows: &[usize]) -> Result<(), TchError> {
        let indices: Vec<i64> = rows.iter().copied().map(dimension).collect();
        let indices = Tensor::f_from_slice(&indices)?.f_to(self.device)?;
        for layer in &mut self.layers {
            layer.keys = layer.keys.f_index_select(0, &indices)?;
            layer.values = layer.values.f_index_select(0, &indices)?;
        }
        if let Some(padding) = &mut self.padding {
            *padding = rows.iter().map(|row| padding[*row]).collect();
        }
        Ok(())
    }

    /// Columns read.
    pub fn length(&self) -> i64 {
        self.length
    }

    /// The next `length` columns, which are from now on in the cache.
    pub fn span(&mut self, length: i64) -> Result<Span, TchError> {
        let start = self.length;
        let end = start + length;
        if end > self.capacity || end > self.shape.context || (length > 1 && start > 0) {
            return Err(TchError::Shape(format!(
                "{length} tokens after {start} in a cache of {}",
                self.capacity
            )));
        }
        self.length = end;
        let Some(padding) = &self.padding else {
            return Ok(Span { start, length, mask: None, positions: None });
        };
        let options = (Kind::Int64, self.device);
        let rows = dimension(padding.len());
        let padding = Tensor::f_from_slice(padding)?.f_to(self.device)?;
        let columns = Tensor::f_arange(end, options)?;
        let queries = columns.f_narrow(0, start, length)?;
        let positions = queries.f_unsqueeze(0)?.f_sub(&padding.f_unsqueeze(1)?)?.f_clamp_min(0)?;
        let first = padding.f_view([rows, 1, 1, 1])?;
        let (queries, keys) = (queries.f_view([length, 1])?, columns.f_view([1, end])?);
        // Padding sees itself, or its softmax would have nothing to sum and spoil the rest.
        let own = keys.f_eq_tensor(&queries)?;
        let before = keys.f_le_tensor(&queries)?;
        let real = columns.f_view([1, 1, 1, end])?.f_ge_tensor(&first)?;
        let mask = real.f_logical_and(&before)?.f_logical_or(&own)?;
        Ok(Span { start, length, mask: Some(mask), positions: Some(positions) })
    }
}

impl LayerCache {
    /// Adds keys and values `[batch, heads, length, head]`; gives all there are.
    pub fn extend(
        &mut self,
        key: &Tensor,
        value: &Tensor,
        span: &Span,
    ) -> Result<(Tensor, Tensor), TchError> {
        let (start, length) = (span.start, span.length);
        self.keys.f_narrow(2, start, length)?.f_copy_(key)?;
        self.values.f_narrow(2, start, length)?.f_copy_(value)?;
        let end = start + length;
        Ok((self.keys.f_narrow(2, 0, end)?, self.values.f_narrow(2, 0, end)?))
    }
}
