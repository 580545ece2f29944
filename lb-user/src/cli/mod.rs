//! ipvsadm's command line: its grammar, messages, listings and exit statuses.
//!
//! A line goes `argv` → [`popt`] (words into options) → [`parse`] (what was said) → [`request`] (what it means) →
//! [`run`], which hands changes to [`crate::control::balancer`] and prints what is to be listed.
//!
//! | module | owns |
//! |---|---|
//! | [`options`] | the table of commands and options |
//! | [`popt`] | words into options, the popt library's way |
//! | [`values`] | numbers, addresses, masks, scheduler flags |
//! | [`names`] | host and service names |
//! | [`complaint`] | what can be wrong with a line, and its words |
//! | [`parse`], [`request`] | the line, judged value by value, then as a whole |
//! | [`list`], [`sort`] | listings and their order |
//! | [`save`] | the table as command lines, and back into words |
//! | [`help`] | help and manual page |
//! | [`run`] | one command from beginning to end, and the two scripts |

pub mod complaint;
pub mod help;
pub mod list;
pub mod names;
pub mod options;
pub mod parse;
pub mod popt;
pub mod request;
pub mod run;
pub mod save;
pub mod sort;
pub mod values;
