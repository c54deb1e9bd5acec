//! The random beacon: every proposer adds the output of its verifiable random function.
//!
//! ECVRF-EDWARDS25519-SHA512-TAI of RFC 9381 over (chain, height, parent beacon), never the
//! consensus round: a proposer has one value to offer at a height, and knows it as soon as the
//! parent is decided. What remains to it is one bit: to propose, or to forfeit its turn (and the
//! next proposer has the same bit). Draws therefore use the beacon of two heights later.
//!
//! The crate's decoder accepts several spellings of a proof; this module accepts one, so that a
//! header cannot be spelt twice.

use vrf_rfc9381::ec::edwards25519::EdVrfProof;
use vrf_rfc9381::ec::edwards25519::tai::{
    EdVrfEdwards25519TaiPublicKey, EdVrfEdwards25519TaiSecretKey,
};
use vrf_rfc9381::{Ciphersuite, Proof as _, Prover as _, Verifier as _};

use crate::amount::Height;
use crate::ids::{Beacon, ChainId, derive};
use crate::keys::{PublicKey, SecretKey};
use crate::remembered::Remembered;

/// Bytes of a proof.
pub const PROOF_BYTES: usize = 80;

fn input(chain: &ChainId, height: Height, parent: &Beacon) -> [u8; 32] {
    derive(
        "ayni 2026 beacon input v2",
        &[chain.as_bytes(), &height.get().to_le_bytes(), parent.as_bytes()],
    )
}

/// Proofs that are remembered, about 1 MiB. A proposer verifies its own when it builds, the others
/// theirs when they check a block, and a block is offered again in later rounds.
const PROOFS_MAX: usize = 4_096;

/// The beacons of proofs that this process has made or verified.
static PROVEN: Remembered<Beacon> = Remembered::new(PROOFS_MAX);

/// Names one proof of one key over one input.
fn proof_name(
    key: &PublicKey,
    chain: &ChainId,
    height: Height,
    parent: &Beacon,
    proof: &[u8],
) -> [u8; 32] {
    let height = height.get().to_le_bytes();
    let parts: [&[u8]; 5] = [key.as_bytes(), chain.as_bytes(), &height, parent.as_bytes(), proof];
    derive("ayni 2026 verified beacon v1", &parts)
}

fn mix(parent: &Beacon, output: &[u8]) -> Beacon {
    Beacon::from_bytes(derive("ayni 2026 beacon v2", &[parent.as_bytes(), output]))
}

/// The beacon that the holder of `key` adds at `height`, and its proof.
pub fn prove(
    key: &SecretKey,
    chain: &ChainId,
    height: Height,
    parent: &Beacon,
) -> (Beacon, Vec<u8>) {
    let made = EdVrfEdwards25519TaiSecretKey::from_slice(&key.to_seed())
        .and_then(|secret| secret.prove(&input(chain, height, parent)))
        .and_then(|proof| {
            let output = proof.proof_to_hash(Ciphersuite::ECVRF_EDWARDS25519_SHA512_TAI)?;
            Ok((mix(parent, &output), proof.encode_to_pi()))
        });
    // Fails only when 256 hashes in a row are no curve points, which no input is known to do.
    let (beacon, proof) = made.expect("every key proves every input");
    PROVEN.put(proof_name(&key.public(), chain, height, parent, &proof), beacon);
    (beacon, proof)
}

/// The beacon that a proof gives, if it is one of `key` for this height.
pub fn verify(
    key: &PublicKey,
    chain: &ChainId,
    height: Height,
    parent: &Beacon,
    proof: &[u8],
) -> Option<Beacon> {
    if proof.len() != PROOF_BYTES {
        return None;
    }
    let verify = || verify_new(key, chain, height, parent, proof).ok_or(());
    PROVEN.get_or(&proof_name(key, chain, height, parent, proof), verify).ok()
}

fn verify_new(
    key: &PublicKey,
    chain: &ChainId,
    height: Height,
    parent: &Beacon,
    proof: &[u8],
) -> Option<Beacon> {
    let parsed = EdVrfProof::decode_pi(proof).ok()?;
    if parsed.encode_to_pi() != proof {
        return None;
    }
    let verifier = EdVrfEdwards25519TaiPublicKey::from_slice(key.as_bytes()).ok()?;
    let output = verifier.verify(&input(chain, height, parent), parsed).ok()?;
    Some(mix(parent, &output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_is_that_of_the_standard() {
        // RFC 9381, example 16: secret key, empty input, proof.
        let mut seed = [0; 32];
        let secret = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        hex::decode_to_slice(secret, &mut seed).expect("hex");
        let prover = EdVrfEdwards25519TaiSecretKey::from_slice(&seed).expect("a key");
        let proof = prover.prove(b"").expect("a proof").encode_to_pi();
        assert_eq!(
            hex::encode(proof),
            "8657106690b5526245a92b003bb079ccd1a92130477671f6fc01ad16f26f723f26f8a57ccaed74ee1b190bed\
             1f479d9727d2d0f9b005a6e456a35d4fb0daab1268a1b0db10836d9826a528ca76567805"
        );
    }

    #[test]
    fn a_proof_is_bound_to_key_chain_height_and_parent() {
        let (key, other) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
        let (chain, foreign) = (ChainId::from_bytes([1; 32]), ChainId::from_bytes([2; 32]));
        let (parent, height) = (Beacon::from_bytes([3; 32]), Height::new(7));
        let (beacon, proof) = prove(&key, &chain, height, &parent);
        let check = |key: &SecretKey, chain, height, parent, proof: &[u8]| {
            verify(&key.public(), chain, height, parent, proof)
        };
        assert_eq!(check(&key, &chain, height, &parent, &proof), Some(beacon));
        let anew = verify_new(&key.public(), &chain, height, &parent, &proof);
        assert_eq!(anew, Some(beacon), "what is remembered is what verifying gives");
        assert_eq!(check(&other, &chain, height, &parent, &proof), None);
        assert_eq!(check(&key, &foreign, height, &parent, &proof), None);
        assert_eq!(check(&key, &chain, height.plus(1), &parent, &proof), None);
        assert_eq!(check(&key, &chain, height, &beacon, &proof), None);
        for at in 0..proof.len() {
            let mut bad = proof.clone();
            bad[at] ^= 0x80;
            assert_eq!(check(&key, &chain, height, &parent, &bad), None, "byte {at}");
        }
        assert_eq!(check(&key, &chain, height, &parent, &[]), None);
    }
}
