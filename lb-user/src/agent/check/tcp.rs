//! `TCP_CHECK`: a connection comes about, and is closed again.

use super::machine::Outcome;
use super::net;
use super::path::Paths;
use crate::agent::config::model::Target;
use crate::agent::verdict::Weight;

/// The check.
pub struct Prober(Target, Paths);

impl Prober {
    /// Of this server.
    pub fn new(target: Target, paths: Paths) -> Self {
        Self(target, paths)
    }
    /// One attempt.
    pub async fn attempt(&mut self) -> Outcome {
        match net::connect(&self.0, &self.1).await {
            Ok(_) => Outcome::Pass(Weight::Configured),
            Err(trouble) => trouble.into(),
        }
    }
}
