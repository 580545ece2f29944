//! End to end in namespaces: `cargo xtask bench wire` (docs/performance.md).
//!
//! - [`frames`]: frames a second through a card, ours beside programs that only send and beside Linux forwarding.
//! - [`http`]: pages a second and how long each takes, through each method and without a balancer.
//! - [`plot`]: the picture.

pub mod frames;
pub mod http;
pub mod plot;

use serde_json::Value;

/// How long to measure.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Rounds, in each of which everything has its turn.
    pub rounds: u32,
    /// Frames sent in a turn.
    pub frames: u32,
    /// Seconds that pages are asked for in a turn.
    pub seconds: u32,
}

impl Effort {
    /// For figures worth keeping.
    pub const WHOLE: Self = Self { rounds: 9, frames: 1_000_000, seconds: 4 };
    /// For a first look.
    pub const QUICK: Self = Self { rounds: 3, frames: 200_000, seconds: 1 };
}

/// Both parts' figures.
#[derive(Debug, Default)]
pub struct Figures {
    /// Frames a second.
    pub frames: Vec<frames::Figure>,
    /// Pages a second.
    pub pages: Vec<http::Figure>,
}

impl Figures {
    /// For other programs.
    pub fn json(&self) -> Value {
        let frames = self.frames.iter().map(frames::Figure::json);
        frames.chain(self.pages.iter().map(http::Figure::json)).collect()
    }
}
