//! Whatever words come: never a panic, always one of the known statuses, and nothing changed by what fails.

mod common;

use common::Desk;
use lb_user::cli::options::{Argument, OPTIONS};
use proptest::prelude::*;

/// Options and values that mean something, so that more than the first word is looked at; and rubbish.
fn word() -> impl Strategy<Value = String> {
    let options: Vec<String> = OPTIONS
        .iter()
        .flat_map(|opt| {
            let long = format!("--{}", opt.long);
            let attached = (opt.argument != Argument::No).then(|| format!("--{}=1", opt.long));
            [Some(long), attached, opt.short.map(|letter| format!("-{letter}"))].into_iter().flatten()
        })
        .collect();
    let values = [
        "10.0.0.1:80",
        "10.1.0.1",
        "[2001:db8::1]:80",
        "[fd00::1]:",
        "[",
        "]:",
        "::",
        "web:http",
        "80",
        "0",
        "-1",
        "master",
        "backup",
        "rr",
        "sh",
        "sip",
        "sh-port",
        ",",
        "flag-1,",
        "255.255.0.0",
        "64",
        "gue",
        "gre",
        "224.0.0.81",
        "",
        "-",
        "--",
        "99999999999999999999",
        "-Ln",
        "-At",
        "-é",
        "--é=ü",
        "-A=é",
        "é:é",
        "[é]:1",
    ];
    prop_oneof![
        6 => prop::sample::select(options),
        4 => prop::sample::select(values.to_vec()).prop_map(str::to_owned),
        1 => "\\PC{0,12}",
        1 => "-[a-zA-Z0-9=]{1,4}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_words(words in prop::collection::vec(word(), 0..9), commands in any::<bool>()) {
        let mut desk = Desk::new();
        desk.restore("-A -t 10.0.0.1:80\n-a -t 10.0.0.1:80 -r 10.1.0.1\n-A -f 1 -6 -s sh\n");
        let before = desk.ok("ipvsadm -S -n");
        let lead = if commands { vec!["ipvsadm".to_owned(), "-a".to_owned()] } else { vec!["ipvsadm".to_owned()] };
        let outcome = desk.run_words(&[lead, words].concat(), "-L -n\n");
        prop_assert!([0, 1, 2, 255].contains(&outcome.status), "{:?}", outcome);
        prop_assert_eq!(outcome.status == 0, outcome.err.is_empty(), "{:?}", outcome);
        if outcome.status != 0 {
            prop_assert_eq!(desk.ok("ipvsadm -S -n"), before);
        }
    }

    #[test]
    fn any_lines(text in prop::collection::vec(prop::collection::vec(word(), 0..6), 0..6)) {
        let lines: Vec<String> = text.iter().map(|words| words.join(" ")).collect();
        let outcome = Desk::new().run_with("ipvsadm -R", &lines.join("\n"));
        prop_assert!([0, 1, 2, 255].contains(&outcome.status), "{:?}", outcome);
        Desk::new().run_with("ipvsadm-restore", &lines.join("\n"));
    }
}
