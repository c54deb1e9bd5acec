//! A raw peer that speaks the protocols but not the truth.
