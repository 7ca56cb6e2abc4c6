//! What makes shells complete commands, options and their values.

use std::fmt::Write;

use super::{Values, book, book::ACTIONS, book::Action, node_options};

/// The script for a shell, or none for one that is not known.
pub fn completions(shell: &str) -> Option<String> {
    match shell {
        "bash" => Some(bash()),
        "zsh" => Some(zsh()),
        "fish" => Some(fish()),
        _ => None,
    }
}

/// An option of a command.
struct Offer {
    name: &'static str,
    text: String,
    values: Values,
}

/// The options of a command, its own first; without one, those of a node.
fn offers(action: Option<&Action>) -> Vec<Offer> {
    let own = action.map_or(&[][..], |action| action.flags);
    let mut offers: Vec<Offer> = own
        .iter()
        .map(|flag| Offer {
            name: flag.name,
            text: flag.text.into(),
            values: Values::of(flag.value),
        })
        .collect();
    if action.is_none_or(|action| action.has_node) {
        for (flag, text, values) in node_options() {
            if !own.iter().any(|known| known.name == flag.name) {
                offers.push(Offer {
                    name: flag.name,
                    text,
                    values,
                });
            }
        }
    }
    offers
}

/// The first words of commands, each once.
fn first_words() -> Vec<&'static str> {
    let mut words: Vec<&str> = ACTIONS.iter().map(|action| action.words[0]).collect();
    words.dedup();
    words
}

/// The second words of those that have two.
fn second_words(first: &str) -> Vec<&'static str> {
    book::actions(first)
        .filter_map(|action| action.words.get(1).copied())
        .collect()
}

/// First words of commands of two.
fn pairs() -> Vec<&'static str> {
    let mut firsts = first_words();
    firsts.retain(|first| !second_words(first).is_empty());
    firsts
}

// ---- bash ----

fn bash() -> String {
    let mut out = format!(
        "# Completions of ringkeep for bash. Made by: ringkeep completions bash\n\
         _ringkeep() {{\n\
         \x20   local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} \
         command= names=\n\
         \x20   COMPREPLY=()\n\
         \x20   # A value may stand behind =, which bash takes for a word.\n\
         \x20   [ \"$word\" = = ] && word=\n\
         \x20   [ \"$before\" = = ] && before=${{COMP_WORDS[COMP_CWORD - 2]}}\n\
         \x20   case ${{COMP_WORDS[1]}} in\n\
         \x20   {}) [ \"$COMP_CWORD\" -gt 1 ] && command=${{COMP_WORDS[1]}} ;;\n\
         \x20   esac\n",
        first_words().join("|"),
    );
    for first in pairs() {
        let seconds = second_words(first);
        let _ = write!(
            out,
            "    if [ \"$command\" = {first} ]; then\n\
             \x20       if [ \"$COMP_CWORD\" = 2 ]; then\n\
             \x20           COMPREPLY=($(compgen -W '{}' -- \"$word\"))\n\
             \x20           return\n\
             \x20       fi\n\
             \x20       command=\"{first} ${{COMP_WORDS[2]}}\"\n\
             \x20   fi\n",
            seconds.join(" "),
        );
    }
    out += "    case \"$command $before\" in\n";
    for action in all() {
        let command = action.map_or(String::new(), Action::name);
        for offer in offers(action) {
            if offer.values != Values::None {
                let _ = writeln!(
                    out,
                    "    '{command} {}') {}; return ;;",
                    offer.name,
                    bash_values(&offer.values)
                );
            }
        }
    }
    out += "    esac\n    case $command in\n";
    for action in all() {
        let command = action.map_or(String::new(), Action::name);
        let names: Vec<&str> = offers(action).iter().map(|offer| offer.name).collect();
        let operand = match action {
            None => format!(
                "COMPREPLY=($(compgen -W '{}' -- \"$word\"))",
                first_words().join(" ")
            ),
            Some(action) => bash_values(&Values::of(action.operand)),
        };
        let _ = write!(
            out,
            "    '{command}')\n        names='{}'\n        \
             [[ $word = -* ]] || {{ {operand}; }}\n        ;;\n",
            names.join(" "),
        );
    }
    out += "    esac\n    [[ $word = -* ]] && COMPREPLY=($(compgen -W \"$names\" -- \"$word\"))\n    \
            return 0\n}\n\
            complete -o filenames -F _ringkeep ringkeep\n";
    out
}

/// No command, and then all of them.
fn all() -> impl Iterator<Item = Option<&'static Action>> {
    [None].into_iter().chain(ACTIONS.iter().map(Some))
}

fn bash_values(values: &Values) -> String {
    match values {
        Values::None | Values::Any => ":".into(),
        Values::Words(words) => {
            format!(
                "COMPREPLY=($(compgen -W '{}' -- \"$word\"))",
                words.join(" ")
            )
        }
        Values::Path => "COMPREPLY=($(compgen -f -- \"$word\"))".into(),
        Values::Folder => "COMPREPLY=($(compgen -d -- \"$word\"))".into(),
    }
}

// ---- zsh ----

fn zsh() -> String {
    let mut out = String::from(
        "#compdef ringkeep\n# Completions of ringkeep for zsh. Made by: ringkeep completions zsh\n\
         _ringkeep() {\n    local -a commands\n    commands=(\n",
    );
    for first in first_words() {
        let mut texts = book::actions(first).map(|action| action.text);
        let text = zsh_text(texts.next().unwrap_or_default());
        let _ = writeln!(out, "        '{first}:{text}'");
    }
    out += "    )\n    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then\n\
            \x20       _describe command commands\n        return\n    fi\n";
    for first in pairs() {
        let _ = write!(
            out,
            "    if [[ $words[2] = {first} ]]; then\n        if (( CURRENT == 3 )); then\n\
             \x20           compadd {}\n            return\n        fi\n\
             \x20       words[2]=\"{first} $words[3]\"\n        words[3]=()\n        \
             (( CURRENT-- ))\n    fi\n",
            second_words(first).join(" "),
        );
    }
    out += "    case $words[2] in\n";
    for action in ACTIONS {
        let _ = write!(
            out,
            "    '{}')\n        shift words\n        (( CURRENT-- ))\n        _arguments",
            action.name()
        );
        zsh_arguments(&mut out, Some(action));
        out += "        ;;\n";
    }
    out += "    *)\n        _arguments";
    zsh_arguments(&mut out, None);
    out += "        ;;\n    esac\n}\n_ringkeep \"$@\"\n";
    out
}

fn zsh_arguments(out: &mut String, action: Option<&Action>) {
    for offer in offers(action) {
        let (name, text) = (offer.name, zsh_text(&offer.text));
        let _ = match offer.values {
            Values::None => write!(out, " \\\n            '{name}[{text}]'"),
            values => write!(
                out,
                " \\\n            '*{name}=[{text}]:value:{}'",
                zsh_values(&values)
            ),
        };
    }
    let operand = Values::of(action.map_or("", |action| action.operand));
    if operand != Values::None {
        let _ = write!(out, " \\\n            '*:operand:{}'", zsh_values(&operand));
    }
    *out += " \\\n            && return\n";
}

fn zsh_values(values: &Values) -> String {
    match values {
        Values::None | Values::Any => " ".into(),
        Values::Words(words) => format!("({})", words.join(" ")),
        Values::Path => "_files".into(),
        Values::Folder => "_files -/".into(),
    }
}

/// What stands between single quotes, within brackets.
fn zsh_text(text: &str) -> String {
    let text = text.replace('\'', "").replace('[', "(").replace(']', ")");
    text.replace(':', "\\:")
}

// ---- fish ----

fn fish() -> String {
    let mut out = format!(
        "# Completions of ringkeep for fish. Made by: ringkeep completions fish\n\
         function __ringkeep_is\n\
         \x20   set -l words (commandline -opc)[2..-1]\n\
         \x20   string match -q -- \"$argv *\" \"$words \"\n\
         end\n\
         function __ringkeep_serves\n\
         \x20   not contains -- (commandline -opc)[2] {}\n\
         end\n\
         function __ringkeep_starts\n\
         \x20   test (count (commandline -opc)) -eq 1\n\
         end\n\
         complete -c ringkeep -f\n",
        first_words().join(" "),
    );
    for first in first_words() {
        let text = book::actions(first).next().map_or("", |action| action.text);
        let _ = writeln!(
            out,
            "complete -c ringkeep -n __ringkeep_starts -a {first} -d '{}'",
            fish_text(text)
        );
    }
    for first in pairs() {
        let _ = writeln!(
            out,
            "complete -c ringkeep -n '__ringkeep_is {first}; \
             and test (count (commandline -opc)) -eq 2' -a '{}'",
            second_words(first).join(" "),
        );
    }
    for action in all() {
        let when = action.map_or("__ringkeep_serves".into(), |action| {
            format!("'__ringkeep_is {}'", action.name())
        });
        for offer in offers(action) {
            let _ = writeln!(
                out,
                "complete -c ringkeep -n {when} -l {}{} -d '{}'",
                offer.name.trim_start_matches('-'),
                fish_values(&offer.values),
                fish_text(&offer.text),
            );
        }
        match action.map(|action| Values::of(action.operand)) {
            Some(Values::Path | Values::Folder) => {
                let _ = writeln!(out, "complete -c ringkeep -n {when} -F");
            }
            Some(Values::Words(words)) => {
                let _ = writeln!(
                    out,
                    "complete -c ringkeep -n {when} -a '{}'",
                    words.join(" ")
                );
            }
            _ => {}
        }
    }
    out
}

fn fish_values(values: &Values) -> String {
    match values {
        Values::None => String::new(),
        Values::Any => " -x".into(),
        Values::Words(words) => format!(" -x -a '{}'", words.join(" ")),
        Values::Path => " -r -F".into(),
        Values::Folder => " -x -a '(__fish_complete_directories)'".into(),
    }
}

fn fish_text(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_is_told_of_every_command_and_option() {
        for shell in ["bash", "zsh", "fish"] {
            let script = completions(shell).expect(shell);
            for action in all() {
                for offer in offers(action) {
                    let name = match shell {
                        "fish" => format!("-l {}", offer.name.trim_start_matches('-')),
                        _ => offer.name.to_string(),
                    };
                    assert!(script.contains(&name), "{shell}: {name}");
                }
            }
            for word in first_words() {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
        assert_eq!(completions("tcsh"), None);
    }

    #[test]
    fn the_shells_of_the_parser_are_those_of_the_table() {
        let action = book::actions("completions").next().expect("it is there");
        let Values::Words(shells) = Values::of(action.operand) else {
            panic!("{}", action.operand);
        };
        assert!(shells.iter().all(|shell| completions(shell).is_some()));
    }
}
