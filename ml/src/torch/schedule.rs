//! The learning rate of a step.
//!
//! Plain arithmetic: the cosine is a series of our own, because that of the system's library may
//! differ in the last bit from machine to machine.

use protocol::model::RoundParameters;

use crate::arithmetic::ratio;

/// Without a warm-up for the run, the rate rises over this part of each round's steps: Adam's
/// first steps know no scale yet.
const WARMUP_PART: u32 = 10;
/// Where the cosine ends.
const FLOOR: f64 = 0.1;

/// The rate of step `step` of a round of `steps`, before which the run took `steps_before`.
pub fn rate(parameters: &RoundParameters, steps: u32, steps_before: u64, step: u32) -> f64 {
    let peak = ratio(parameters.learning_rate_ppm);
    let round = if parameters.warmup_steps == 0 {
        let warmup = (steps / WARMUP_PART).max(1);
        part(u64::from(step) + 1, warmup)
    } else {
        1.0
    };
    let at = steps_before.saturating_add(u64::from(step));
    let run = match parameters.warmup_steps {
        0 => 1.0,
        warmup => part(at.saturating_add(1), warmup),
    };
    let fall = match parameters.decay_steps {
        0 => 1.0,
        decay => {
            let warmup = u64::from(parameters.warmup_steps);
            let span = u64::from(decay).saturating_sub(warmup).max(1);
            let done = part(at.saturating_sub(warmup), u32::try_from(span).unwrap_or(u32::MAX));
            FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + cosine_of_part(done))
        }
    };
    peak * round * run * fall
}

/// How much of `whole` is done, at most 1.
fn part(done: u64, whole: u32) -> f64 {
    let done = u32::try_from(done).unwrap_or(u32::MAX).min(whole);
    f64::from(done) / f64::from(whole)
}

/// cos(π x) for x from 0 to 1, by its Taylor series around the middle, where it is -sin.
fn cosine_of_part(x: f64) -> f64 {
    let angle = (x - 0.5) * std::f64::consts::PI;
    let square = angle * angle;
    let (mut term, mut sum) = (angle, angle);
    // The next term of the last one would be below 1e-18 for the largest angle, π/2.
    for n in 1..11u32 {
        term *= -square / f64::from(2 * n * (2 * n + 1));
        sum += term;
    }
    -sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(warmup_steps: u32, decay_steps: u32) -> RoundParameters {
        let learning_rate_ppm = 1_000_000;
        RoundParameters { warmup_steps, decay_steps, learning_rate_ppm, ..Default::default() }
    }

    #[test]
    fn the_series_is_the_cosine() {
        for i in 0..=1_000 {
            let x = f64::from(i) / 1_000.0;
            assert!((cosine_of_part(x) - (x * std::f64::consts::PI).cos()).abs() < 1e-15, "{x}");
        }
    }

    #[test]
    fn rises_and_falls_over_the_run() {
        let run = parameters(10, 110);
        for (before, step, expect) in
            [(0, 0, 0.1), (0, 9, 1.0), (9, 0, 1.0), (60, 0, 0.55), (50, 10, 0.55), (110, 0, 0.1)]
        {
            let rate = rate(&run, 30, before, step);
            assert!((rate - expect).abs() < 1e-12, "{before}+{step}: {rate}");
        }
        assert!((rate(&run, 30, u64::MAX, 5) - 0.1).abs() < 1e-12);
        let constant = parameters(0, 0);
        assert!((rate(&constant, 30, 900, 0) - 1.0 / 3.0).abs() < 1e-12, "each round warms up");
        assert!((rate(&constant, 30, 900, 3) - 1.0).abs() < 1e-12);
    }
}
