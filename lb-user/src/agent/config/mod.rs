//! keepalived's configuration: from files to what they mean.
//!
//! | module | owns |
//! |---|---|
//! | [`source`] | files to lines: comments, includes, definitions, conditions, repetitions |
//! | [`include`], [`define`], [`repeat`] | those |
//! | [`tree`] | lines to keywords with their words and blocks |
//! | [`read`] | keywords to meaning, defaults filled in |
//! | [`model`] | the meaning |
//! | [`problem`] | what is wrong, and where |

pub mod define;
pub mod include;
pub mod model;
pub mod problem;
pub mod read;
pub mod repeat;
pub mod source;
pub mod tree;

use std::path::Path;

use model::Config;
use problem::Problems;

/// Where keepalived has it.
pub const USUAL: &str = "/etc/keepalived/keepalived.conf";

/// A configuration with what is wrong with it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// As far as it makes sense.
    pub config: Config,
    /// By file and line.
    pub problems: Problems,
}

/// Reads a configuration. `id` is what `@id` lines are compared with: [`host_id`] unless it was given.
pub fn load(path: &Path, id: &str) -> Loaded {
    let mut problems = Problems::default();
    let lines = source::read(path, id, &mut problems);
    let tree = tree::parse(&lines, &mut problems);
    let config = read::config(&tree, &mut problems);
    problems.sort();
    Loaded { config, problems }
}

/// The first label of this machine's name.
pub fn host_id() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.split('.').next().unwrap_or_default().to_owned()
}
