//! The metrics endpoint: what listings, `lb-user status` and the agent know, for Prometheus.
//!
//! | module | owns |
//! |---|---|
//! | [`view`] | what is shown, as it is at one moment |
//! | [`labels`] | what services, dests and servers are called in it |
//! | [`of_tables`], [`of_agent`] | the metrics: names, meanings, values |
//! | [`page`] | from those to text |
//! | [`serve`] | HTTP |

pub mod labels;
pub mod of_agent;
pub mod of_tables;
pub mod page;
pub mod serve;
pub mod view;
