//! `TCP_CHECK`: a connection comes about, and is closed again.

use super::machine::Outcome;
use super::net;
use crate::agent::config::model::Target;
use crate::agent::verdict::Weight;

/// The check.
pub struct Prober(Target);

impl Prober {
    /// Of this server.
    pub fn new(target: Target) -> Self {
        Self(target)
    }
    /// One attempt.
    pub async fn attempt(&mut self) -> Outcome {
        match net::connect(&self.0).await {
            Ok(_) => Outcome::Pass(Weight::Configured),
            Err(trouble) => trouble.into(),
        }
    }
}
