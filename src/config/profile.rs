//! Profiles: named sets of tuning keys that ship inside the program.
//!
//! Apart because they are data, `tuning/*.toml`, and the file of a node always has the last word.

use super::layer::{self, Layer, Role};
use super::problem::{Fault, Place, Problem, Problems};

/// A profile that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    name: &'static str,
    text: &'static str,
}

const PROFILES: [Profile; 4] = [
    Profile { name: "laptop", text: include_str!("../../tuning/laptop.toml") },
    Profile { name: "ci", text: include_str!("../../tuning/ci.toml") },
    Profile { name: "nvme", text: include_str!("../../tuning/nvme.toml") },
    Profile { name: "low-latency", text: include_str!("../../tuning/low-latency.toml") },
];

/// Every profile that exists.
pub fn profiles() -> impl Iterator<Item = Profile> {
    PROFILES.into_iter()
}

impl Profile {
    /// The profile called `name`.
    pub fn find(name: &str) -> Result<Self, Problems> {
        profiles().find(|profile| profile.name == name).ok_or_else(|| {
            let known = PROFILES.map(|profile| profile.name).join(", ");
            let fault = Fault::UnknownProfile { name: layer::printable(name), known };
            Problems::one(Place { file: "--profile".to_owned(), line: 0 }, fault)
        })
    }

    /// Its name, which is also the name of its file in `tuning/`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn layer(&self, problems: &mut Vec<Problem>) -> Layer {
        layer::read(&format!("tuning/{}.toml", self.name), self.text, Role::Profile, problems)
    }
}
