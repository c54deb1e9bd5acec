//! What hostile workers send, knowing what all honest ones send. Rows are workers' momenta.

use tch::{TchError, Tensor};

use super::{Attack, HONEST, HOSTILE, Rule};

/// ALIE's z for 25 workers of which 5 are hostile: Φ⁻¹((n - f - s)/(n - f)), s = n/2 + 1 - f,
/// rounded down: Φ⁻¹(12/20) (Baruch et al., arXiv 1902.06156).
const ALIE_Z: f64 = 0.253;

/// Strength of inner product manipulation (Xie et al., arXiv 1903.03936).
fn ipm_epsilon(rule: Rule) -> f64 {
    // A mean of 20 honest and 5 hostile gradients turns round only above 20/5.
    if rule == Rule::Mean { 10.0 } else { 0.1 }
}

/// Replaces the hostile rows of `sent` (`[WORKERS, parameters]`), which hold what these workers
/// would send if they were honest, or anything if the attack needs none. [`undo`] restores them.
pub(super) fn apply(attack: Attack, rule: Rule, sent: &Tensor) -> Result<(), TchError> {
    let rows = |from: usize, count: usize| -> Result<Tensor, TchError> {
        let (from, count) = (i64::try_from(from), i64::try_from(count));
        sent.f_narrow(0, from.expect("few workers"), count.expect("few workers"))
    };
    let honest = rows(0, HONEST)?;
    let mut hostile = rows(HONEST, HOSTILE)?;
    let mean = || honest.f_mean_dim([0i64].as_slice(), true, tch::Kind::Float);
    let lie = match attack {
        Attack::None | Attack::Labelflip => return Ok(()),
        Attack::Bitflip => hostile.f_neg()?,
        Attack::Ipm => mean()?.f_mul_scalar(-ipm_epsilon(rule))?,
        Attack::Alie => {
            let deviation = honest.f_std_dim([0i64].as_slice(), true, true)?;
            mean()?.f_sub(&deviation.f_mul_scalar(ALIE_Z)?)?
        }
        Attack::Mimic => rows(0, 1)?,
    };
    hostile.f_copy_(&lie.f_expand_as(&hostile)?)?;
    Ok(())
}

/// Gives workers that compute gradients of their own their momenta back.
pub(super) fn undo(attack: Attack, sent: &Tensor) -> Result<(), TchError> {
    if attack == Attack::Bitflip {
        let (from, count) = (i64::try_from(HONEST), i64::try_from(HOSTILE));
        let _ =
            sent.f_narrow(0, from.expect("few workers"), count.expect("few workers"))?.f_neg_()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 20 honest workers with one coordinate 0 to 19 and one of 2; hostile ones would send (5, 5).
    fn sent(attack: Attack, rule: Rule) -> Vec<f32> {
        let mut rows: Vec<f32> = (0..20u8).flat_map(|i| [f32::from(i), 2.0]).collect();
        rows.extend([5.0; 10]);
        let sent = Tensor::from_slice(&rows).view([25, 2]);
        apply(attack, rule, &sent).expect("computes");
        let mut after = vec![0.0f32; 50];
        sent.flatten(0, -1).copy_data(&mut after, 50);
        assert_eq!(after[..40], rows[..40], "honest workers are left alone");
        let (hostile, _) = after[40..].as_chunks::<2>();
        assert!(hostile.iter().all(|pair| *pair == hostile[0]), "they act as one");
        if attack.trains() {
            undo(attack, &sent).expect("computes");
            sent.flatten(0, -1).copy_data(&mut rows, 50);
            assert_eq!(rows[40..], [5.0; 10]);
        }
        hostile[0].to_vec()
    }

    #[test]
    fn lies() {
        assert_eq!(sent(Attack::None, Rule::Mean), [5.0, 5.0]);
        assert_eq!(sent(Attack::Labelflip, Rule::Mean), [5.0, 5.0]);
        assert_eq!(sent(Attack::Bitflip, Rule::Mean), [-5.0, -5.0]);
        assert_eq!(sent(Attack::Mimic, Rule::Mean), [0.0, 2.0]);
        assert_eq!(sent(Attack::Ipm, Rule::Mean), [-95.0, -20.0]);
        assert_eq!(sent(Attack::Ipm, Rule::Krum), [-0.95, -0.2]);
        // Mean 9.5, standard deviation sqrt(35): of 0 to 19 it is sqrt(20 * 21 / 12).
        let alie = sent(Attack::Alie, Rule::Mean);
        assert!((alie[0] - (9.5 - 0.253 * 35.0f32.sqrt())).abs() < 1e-5 && alie[1] == 2.0);
    }
}
