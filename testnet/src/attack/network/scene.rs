//! Which attack is played against which defence. A scene is a model of its own, and the model's
//! name says which, so that relays in front of the workers know what to play without being told.

use serde::{Deserialize, Serialize};

/// What the hostile members send as their delta of a round. Each also trains honestly, so that
/// replaying a slice of its training finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Attack {
    /// The honest delta: nobody attacks.
    None,
    /// Its negative.
    SignFlip,
    /// A hundred times it.
    Scaled,
    /// A delta trained on records whose label y is 9 - y.
    LabelFlip,
    /// A tenth of its negative: inner-product manipulation (Xie et al., arXiv 1903.03936) with the
    /// author's own delta for the mean, which nobody knows before deltas are revealed.
    Little,
    /// A delta trained on records of which half carry a trigger and the class 0, scaled as if to
    /// replace the model (Bagdasaryan et al., arXiv 1807.00459).
    Backdoor,
}

/// What stands against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Defence {
    /// Every worker is replaced by one that accepts every delta and takes their plain mean.
    Off,
    /// Every worker is replaced by one that accepts every delta; merging clips as it always does.
    Clip,
    /// The programs as they are: honest workers are not touched.
    On,
}

/// An attack against a defence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Scene {
    pub(crate) attack: Attack,
    pub(crate) defence: Defence,
}

impl Attack {
    /// All, beginning with none.
    pub(crate) const ALL: [Self; 6] =
        [Self::None, Self::SignFlip, Self::Scaled, Self::LabelFlip, Self::Little, Self::Backdoor];

    /// For people and in names of models.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SignFlip => "sign-flip",
            Self::Scaled => "scaled-x100",
            Self::LabelFlip => "label-flip",
            Self::Little => "little",
            Self::Backdoor => "backdoor",
        }
    }
}

impl Defence {
    const ALL: [Self; 3] = [Self::Off, Self::Clip, Self::On];

    /// In names of models.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Clip => "clip",
            Self::On => "on",
        }
    }

    /// For people.
    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::Off => "none: plain mean",
            Self::Clip => "clip, no review",
            Self::On => "clip and review",
        }
    }
}

impl Scene {
    /// The scene that a model is for, if it is for one.
    pub(crate) fn of(model: &str) -> Option<Self> {
        let (attack, defence) = model.split_once('.')?;
        Some(Self {
            attack: Attack::ALL.into_iter().find(|a| a.name() == attack)?,
            defence: Defence::ALL.into_iter().find(|d| d.name() == defence)?,
        })
    }

    /// Name of its model.
    pub(crate) fn name(self) -> String {
        format!("{}.{}", self.attack.name(), self.defence.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scene_is_read_from_the_name_of_its_model() {
        for attack in Attack::ALL {
            for defence in Defence::ALL {
                let scene = Scene { attack, defence };
                protocol::model::check_name("name", &scene.name()).expect("a model's name");
                assert_eq!(Scene::of(&scene.name()), Some(scene));
            }
        }
        for other in ["ayni-demo", "none", "none.", "backdoor.maybe", "x.on"] {
            assert_eq!(Scene::of(other), None, "{other}");
        }
    }
}
