//! The manual page, for troff with the macros of man(7).

use super::{book::ACTIONS, book::ASKING, book::PLAIN, choices, sections};

/// What is told beside commands and options.
const ABOUT: &str = "\
ringkeep is a key-value server for Linux that speaks the Redis protocol. It runs one thread for each core, \
each with an io_uring of its own and its own part of the keys. It follows, and is followed by, Redis, \
Valkey and kevy servers, takes part in elections, and hands over to a new binary without an outage.";

/// Tags and texts below FILES, EXIT STATUS and SIGNALS.
const REST: &[(&str, &[(&str, &str)])] = &[
    (
        "FILES",
        &[
            (
                "/etc/ringkeep/ringkeep.toml",
                "Settings. The options of each section above are its keys. Another file is read where \
                 --config, RINGKEEP_DIR or the working directory has one.",
            ),
            (
                "/var/lib/ringkeep",
                "The data directory of the service of the package.",
            ),
            (
                "/run/ringkeep/control",
                "The socket at which the service of the package is asked for upgrades.",
            ),
        ],
    ),
    (
        "SIGNALS",
        &[
            (
                "SIGTERM, SIGINT",
                "A node ends in order: what is written is on the disk then. So does a supervisor \
                                 with its node.",
            ),
            (
                "SIGHUP",
                "To a supervisor: an upgrade to the program that is now at the path of the node.",
            ),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "All is well."),
            (
                "1",
                "It was not done, or not all of it; the reason is told.",
            ),
            (
                "2",
                "The command line, a variable or the file of settings is wrong. Nothing was done.",
            ),
        ],
    ),
];

/// The whole page.
pub fn page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut out = format!(".TH RINGKEEP 1 \"\" \"ringkeep {version}\" \"User Commands\"\n");
    out += ".SH NAME\nringkeep \\- Redis\\-protocol key\\-value node on io_uring\n.SH SYNOPSIS\n";
    synopsis(&mut out, "[options]");
    for action in ACTIONS {
        synopsis(&mut out, &action.line());
    }
    out += &format!(".SH DESCRIPTION\n{}\n.SH COMMANDS\n", roff(ABOUT));
    for action in ACTIONS {
        tagged(&mut out, &action.line(), action.text);
        if !action.flags.is_empty() {
            out += ".RS\n";
            for flag in action.flags {
                tagged(&mut out, &flag.line(), flag.text);
            }
            out += ".RE\n";
        }
    }
    out += ".SH OPTIONS\nA value follows as the next argument or behind =. Each option can also be \
            a variable or a key of the\nfile of settings: options go before variables, these before the \
            file.\n";
    for flag in PLAIN.iter().chain(ASKING) {
        tagged(&mut out, &flag.line(), flag.text);
    }
    for section in sections() {
        out += &format!(".SS \"[{}]\"\n", roff(section));
        for choice in choices(section) {
            let setting = choice.setting;
            let live = if setting.is_live {
                "; CONFIG SET changes it"
            } else {
                ""
            };
            let told = format!(
                "{}. Variable {}, key {}{live}.",
                choice.text(),
                setting.variable(),
                setting.place.1,
            );
            tagged(&mut out, &choice.flag.line(), &told);
        }
    }
    for (title, entries) in REST {
        out += &format!(".SH {title}\n");
        for (tag, text) in *entries {
            tagged(&mut out, tag, text);
        }
    }
    out += ".SH SEE ALSO\n.BR redis\\-cli (1),\n.BR systemd.service (5)\n";
    out
}

fn synopsis(out: &mut String, line: &str) {
    *out += &format!(".B ringkeep\n{}\n.br\n", roff(line));
}

fn tagged(out: &mut String, tag: &str, text: &str) {
    *out += &format!(
        ".TP\n.B {}\n{}\n",
        roff(tag).replace('"', "\\(dq"),
        roff(text)
    );
}

/// Keeps troff from taking a character for its own.
fn roff(text: &str) -> String {
    let text = text
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq");
    match text.starts_with('.') {
        true => format!("\\&{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::SETTINGS, *};

    #[test]
    fn every_command_and_option_is_on_the_page() {
        let page = page();
        for action in ACTIONS {
            assert!(
                page.contains(&format!("\n.B {}\n", roff(&action.line()))),
                "{}",
                action.name()
            );
        }
        for setting in SETTINGS {
            assert!(page.contains(&setting.variable()), "{}", setting.name);
        }
    }

    #[test]
    fn no_text_is_a_request_to_troff() {
        assert_eq!(roff(".x -y 'z' \\"), "\\&.x \\-y \\(aqz\\(aq \\e");
        let macros = ["TH", "SH", "SS", "TP", "B", "BR", "RS", "RE", "br"];
        for line in page().lines() {
            if let Some(request) = line.strip_prefix('.') {
                let word = request.split(' ').next().unwrap_or_default();
                assert!(macros.contains(&word), "{line}");
            }
            assert!(!line.starts_with('\''), "{line}");
        }
    }
}
